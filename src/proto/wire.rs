//! The peer protocol on the wire: handshake, messages, codec, extension handshake (BEP 3, 6, 10, 21).

pub mod codec;
pub mod extension;
pub mod handshake;
mod message;

pub use codec::{Decoder, WireError};
pub use extension::ExtensionHandshake;
pub use handshake::Handshake;
pub use message::{BlockRequest, Message};
