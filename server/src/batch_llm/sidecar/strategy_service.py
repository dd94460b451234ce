"""`StrategyService`: register, show, list, unregister."""

from __future__ import annotations

from typing import Any

from batchllm.v1 import strategy_service_pb2 as pb
from batchllm.v1 import strategy_service_pb2_grpc

from . import mapping
from .registrations import Registrations
from .status import abort


class StrategyServicer(strategy_service_pb2_grpc.StrategyServiceServicer):
    """Serves `StrategyService`.

    Args:
        registrations: the named strategies.
    """

    def __init__(self, registrations: Registrations) -> None:
        self._registrations = registrations

    async def RegisterStrategy(self, request: pb.RegisterStrategyRequest, context: Any) -> pb.RegisterStrategyResponse:
        """See strategy_service.proto."""
        try:
            entry, registered = await self._registrations.register(request.spec)
        except Exception as error:
            await abort(context, error)
        return pb.RegisterStrategyResponse(strategy=mapping.strategy_message(entry), registered=registered)

    async def GetStrategy(self, request: pb.GetStrategyRequest, context: Any) -> pb.GetStrategyResponse:
        """See strategy_service.proto."""
        try:
            entry = await self._registrations.find(request.name)
        except Exception as error:
            await abort(context, error)
        return pb.GetStrategyResponse(strategy=mapping.strategy_message(entry))

    async def ListStrategies(self, request: pb.ListStrategiesRequest, context: Any) -> pb.ListStrategiesResponse:
        """See strategy_service.proto."""
        try:
            entries = await self._registrations.list()
        except Exception as error:
            await abort(context, error)
        return pb.ListStrategiesResponse(strategies=map(mapping.strategy_message, entries))

    async def UnregisterStrategy(
        self, request: pb.UnregisterStrategyRequest, context: Any
    ) -> pb.UnregisterStrategyResponse:
        """See strategy_service.proto."""
        try:
            await self._registrations.unregister(request.name)
        except Exception as error:
            await abort(context, error)
        return pb.UnregisterStrategyResponse()
