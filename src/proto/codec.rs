//! The codec that generated code names: prost's, with buffers as large as messages of ours are.
//!
//! Must never change a byte of what prost writes.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that are allocated for a message before its length is known: a request takes about 60, an answer about 300, and what is longer
/// makes its buffer grow. tonic's 8 KiB, twice for each call, would be most of the memory that a call needs.
const BUFFER: usize = 512;
/// So much is encoded before anything is sent: as tonic has it, and of no effect on a single message.
const YIELD_AT: usize = 32 * 1024;

/// Encodes messages of type `T` and decodes those of type `U`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SmallMessages<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallMessages<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallMessages<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD_AT))
    }
}
