//! Adapter of the code that tonic and prost generate, with nothing of ours around it: see ../../README.md.

mod client;
mod messages;

use std::{
    cell::RefCell,
    collections::HashMap,
    io::{self, Write},
    rc::Rc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::{LocalSet, spawn_local},
};

use crate::{
    client::{Client, Stream},
    messages::{Failure, read, show},
};

#[derive(Default)]
struct Adapter {
    clients: RefCell<HashMap<String, Client>>,
    streams: RefCell<HashMap<String, Stream>>,
}

/// A thread is enough: commands run at the same time as tasks, and what they wait for is gRPC.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    LocalSet::new().run_until(serve(Rc::default())).await
}

/// Until the input ends.
async fn serve(adapter: Rc<Adapter>) -> io::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let adapter = adapter.clone();
        spawn_local(async move {
            let number = command["id"].clone();
            let mut answer = adapter.run(command).await.unwrap_or_else(|failure| failure.show());
            answer["id"] = number;
            // Whole lines: nothing else runs meanwhile. Nobody reads it any more: the input will end as well.
            drop(writeln!(io::stdout(), "{answer}"));
        });
    }
    Ok(())
}

impl Adapter {
    async fn run(&self, mut command: Value) -> Result<Value, Failure> {
        let done = json!({});
        match text(&command, "do")?.as_str() {
            "hello" => Ok(json!({"name": "rust-generated", "sets": ["raw"]})),
            "connect" => {
                let client = Client::new(&text(&command, "target")?)?;
                self.clients.borrow_mut().insert(text(&command, "client")?, client);
                Ok(done)
            }
            "close" => {
                let client = text(&command, "client")?;
                self.streams.borrow_mut().retain(|_, stream| stream.client != client);
                self.clients.borrow_mut().remove(&client);
                Ok(done)
            }
            "call" => {
                let (method, request) = (text(&command, "method")?, command["request"].take());
                let call =
                    of(&self.clients, &command, "client", |client| client.call(method, request, timeout(&command)))?;
                call.get().await?
            }
            "stream.open" => {
                let name = text(&command, "client")?;
                let stream = of(&self.clients, &command, "client", |client| client.open(name, timeout(&command)))?;
                self.streams.borrow_mut().insert(text(&command, "stream")?, stream);
                Ok(done)
            }
            "stream.send" => {
                let frame = read(command["frame"].take())?;
                of(&self.streams, &command, "stream", |stream| stream.send(frame))??.await;
                Ok(done)
            }
            "stream.half_close" => {
                of(&self.streams, &command, "stream", Stream::half_close)?;
                Ok(done)
            }
            "stream.next" => {
                let frame = of(&self.streams, &command, "stream", |stream| stream.next())?;
                Ok(match frame.get().await?? {
                    Some(frame) => json!({"frame": show(&frame)?}),
                    None => json!({"end": true}),
                })
            }
            "stream.cancel" => {
                of(&self.streams, &command, "stream", Stream::cancel)?;
                Ok(done)
            }
            unknown => Err(Failure::Fault(format!("no command {unknown:?}"))),
        }
    }
}

fn text(command: &Value, key: &str) -> Result<String, Failure> {
    Ok(command[key].as_str().ok_or(Failure::Fault(format!("no text {key:?} in the command")))?.to_owned())
}

fn timeout(command: &Value) -> Option<Duration> {
    command["timeout"].as_f64().map(Duration::from_secs_f64)
}

/// What there is by the name that a command gives.
fn of<T, R>(
    made: &RefCell<HashMap<String, T>>,
    command: &Value,
    key: &str,
    act: impl FnOnce(&mut T) -> R,
) -> Result<R, Failure> {
    let name = text(command, key)?;
    made.borrow_mut().get_mut(&name).map(act).ok_or(Failure::Fault(format!("no {key} {name:?}")))
}
