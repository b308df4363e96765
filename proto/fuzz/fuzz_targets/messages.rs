//! Messages of peers that hold the key: as a frame, as a direct message, as both once more.

#![no_main]

use kith_proto::wire::{
    codec,
    message::{Direct, Frame},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = codec::decode::<Frame>(bytes) {
        assert_eq!(codec::decode::<Frame>(&codec::encode(&frame)), Ok(frame));
    }
    if let Ok(direct) = codec::decode::<Direct>(bytes) {
        assert_eq!(codec::decode::<Direct>(&codec::encode(&direct)), Ok(direct));
    }
});
