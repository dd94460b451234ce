//! Makes `src/generated` of a descriptor set: `generate DESCRIPTORS FOLDER`.

use std::{env, error::Error, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(descriptors), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate DESCRIPTORS FOLDER".into());
    };
    // Names, so that a message's descriptor is found by its type.
    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .out_dir(folder)
        .compile_fds_with_config(FileDescriptorSet::decode(fs::read(descriptors)?.as_slice())?, names)?;
    Ok(())
}
