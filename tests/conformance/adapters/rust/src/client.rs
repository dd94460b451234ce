//! A channel, and the calls that are made through it.

use std::{future::Future, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::messages::{
    Failure,
    pb::{
        ProcessBatchRequest, ProcessBatchResponse, batch_service_client::BatchServiceClient,
        cache_lifecycle_service_client::CacheLifecycleServiceClient, strategy_service_client::StrategyServiceClient,
    },
    read, show,
};

type Frame = Result<Option<ProcessBatchResponse>, Status>;

/// What drops it cancels its calls: tonic has no other way.
pub struct Client {
    channel: Channel,
    calls: JoinSet<()>,
}

impl Client {
    /// Connects when it is used.
    pub fn new(target: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(Failure::fault)?;
        Ok(Self { channel: endpoint.connect_lazy(), calls: JoinSet::new() })
    }

    /// Begins a unary call; its response will come.
    pub fn call(
        &mut self,
        method: String,
        request: Value,
        timeout: Option<Duration>,
    ) -> Answer<Result<Value, Failure>> {
        let (reply, answer) = oneshot::channel();
        let call = unary(self.channel.clone(), method, request, timeout);
        self.calls.spawn(async { drop(reply.send(call.await)) });
        Answer(answer)
    }

    /// Begins a call of `ProcessBatch`. `client`: the name of this client.
    pub fn open(&mut self, client: String, timeout: Option<Duration>) -> Stream {
        let (frames, taken) = mpsc::channel(1);
        let (asks, asked) = mpsc::channel(1);
        let mut service = BatchServiceClient::new(self.channel.clone());
        let request = with_timeout(ReceiverStream::new(taken), timeout);
        let call = self.calls.spawn(answer(async move { service.process_batch(request).await }, asked));
        Stream { client, frames: Some(frames), asks, call }
    }
}

/// What a call will give, or CANCELLED if it is dropped.
pub struct Answer<T>(oneshot::Receiver<T>);

impl<T> Answer<T> {
    pub async fn get(self) -> Result<T, Status> {
        self.0.await.map_err(|_| Status::cancelled("the adapter has dropped the call"))
    }
}

/// A call of `ProcessBatch`, of a client.
pub struct Stream {
    pub client: String,
    frames: Option<mpsc::Sender<ProcessBatchRequest>>,
    asks: mpsc::Sender<oneshot::Sender<Frame>>,
    call: AbortHandle,
}

impl Stream {
    /// Waits until gRPC has taken the frame, or the stream has ended. Faults if it is half-closed.
    pub fn send(&self, frame: ProcessBatchRequest) -> Result<impl Future<Output = ()> + use<>, Failure> {
        let frames = self.frames.clone().ok_or(Failure::fault("the stream is half-closed"))?;
        let asks = self.asks.clone();
        Ok(async move {
            // There is room for one frame: if there is room again, gRPC has taken it.
            let taken = async { frames.send(frame).await.is_ok() && frames.reserve().await.is_ok() };
            tokio::select! { _ = taken => (), () = asks.closed() => () }
        })
    }

    pub fn half_close(&mut self) {
        self.frames = None;
    }

    /// Asks for a frame: nothing is read unless it is asked for.
    pub fn next(&self) -> Answer<Frame> {
        let (reply, answer) = oneshot::channel();
        // One that cannot be told of is dropped, as are those that were told of when the call was cancelled.
        drop(self.asks.try_send(reply));
        Answer(answer)
    }

    /// Drops both halves. Only one would not do: hyper tells nobody that the responses were dropped while requests may
    /// come, and takes the end of the requests for a half-close.
    pub fn cancel(&mut self) {
        self.call.abort();
        self.frames = None;
    }
}

/// Makes the call and gives one frame for each time that it is asked.
async fn answer(
    call: impl Future<Output = Result<Response<Streaming<ProcessBatchResponse>>, Status>>,
    mut asked: mpsc::Receiver<oneshot::Sender<Frame>>,
) {
    let mut responses = call.await.map(Response::into_inner);
    while let Some(reply) = asked.recv().await {
        let frame = match &mut responses {
            Ok(responses) => responses.message().await,
            Err(status) => Err(status.clone()),
        };
        drop(reply.send(frame));
    }
}

async fn unary(channel: Channel, method: String, request: Value, timeout: Option<Duration>) -> Result<Value, Failure> {
    macro_rules! call {
        ($service:ident, $method:ident) => {{
            let request = with_timeout(read(request)?, timeout);
            show($service::new(channel).$method(request).await?.get_ref())
        }};
    }
    let response = match method.as_str() {
        "ProcessItem" => call!(BatchServiceClient, process_item),
        "GetBatch" => call!(BatchServiceClient, get_batch),
        "ListBatches" => call!(BatchServiceClient, list_batches),
        "CancelBatch" => call!(BatchServiceClient, cancel_batch),
        "DeleteBatch" => call!(BatchServiceClient, delete_batch),
        "RegisterStrategy" => call!(StrategyServiceClient, register_strategy),
        "GetStrategy" => call!(StrategyServiceClient, get_strategy),
        "ListStrategies" => call!(StrategyServiceClient, list_strategies),
        "UnregisterStrategy" => call!(StrategyServiceClient, unregister_strategy),
        "CreateOrReuse" => call!(CacheLifecycleServiceClient, create_or_reuse),
        "Renew" => call!(CacheLifecycleServiceClient, renew),
        "Delete" => call!(CacheLifecycleServiceClient, delete),
        "GetCache" => call!(CacheLifecycleServiceClient, get_cache),
        "ListCaches" => call!(CacheLifecycleServiceClient, list_caches),
        _ => Err(Failure::Fault(format!("no method {method:?}"))),
    }?;
    Ok(json!({"response": response}))
}

fn with_timeout<T>(message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}
