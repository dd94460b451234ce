import asyncio

import pytest


async def test_time_jumps_to_the_next_timer() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(asyncio.sleep(86_400 * 30), asyncio.sleep(5))
    assert loop.time() - start == pytest.approx(86_400 * 30)


@pytest.mark.parametrize("seconds", [0, 1, 3600])
async def test_a_time_limit_ends_at_its_time(seconds: float) -> None:
    start = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
    assert asyncio.get_running_loop().time() - start == seconds
