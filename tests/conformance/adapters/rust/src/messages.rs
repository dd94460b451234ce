//! The generated code, and protobuf's JSON of its messages.

use std::sync::LazyLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};
use tonic::Status;

#[allow(clippy::all)] // It is made by prost.
pub mod pb {
    include!("generated/batchllm.v1.rs");
}

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!("generated/descriptors.bin").as_slice()).expect("protoc has made it")
});

/// Why a command has no other answer.
pub enum Failure {
    /// The RPC failed.
    Rpc(Status),
    /// The adapter cannot do as told.
    Fault(String),
}

impl Failure {
    pub fn fault(cause: impl ToString) -> Self {
        Self::Fault(cause.to_string())
    }

    /// The command's answer.
    pub fn show(&self) -> Value {
        match self {
            Self::Fault(cause) => json!({"fault": cause}),
            Self::Rpc(status) => json!({"error": {
                "code": code_name(status),
                "message": status.message(),
                "details": BASE64_STANDARD.encode(status.details()),
            }}),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Rpc(status)
    }
}

/// A message of protobuf's JSON.
pub fn read<M: Message + Name + Default>(json: Value) -> Result<M, Failure> {
    let message = DynamicMessage::deserialize(descriptor::<M>(), json).map_err(Failure::fault)?;
    message.transcode_to().map_err(Failure::fault)
}

/// Protobuf's JSON of a message.
pub fn show<M: Message + Name>(message: &M) -> Result<Value, Failure> {
    let mut shown = DynamicMessage::new(descriptor::<M>());
    shown.transcode_from(message).map_err(Failure::fault)?;
    serde_json::to_value(shown).map_err(Failure::fault)
}

fn descriptor<M: Name>() -> MessageDescriptor {
    DESCRIPTORS.get_message_by_name(&M::full_name()).expect("both are made of the same files")
}

/// `NOT_FOUND` of `Code::NotFound`.
fn code_name(status: &Status) -> String {
    let mut name = String::new();
    for letter in format!("{:?}", status.code()).chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
