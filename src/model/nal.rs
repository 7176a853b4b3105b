//! What the first bytes of a NAL unit say: which pictures a decoder may begin with.
//!
//! Owns the two video codecs that cameras send. May not look behind a NAL unit's header.

/// How a camera's video is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VideoCodec {
    /// ITU-T H.264 (AVC).
    H264,
    /// ITU-T H.265 (HEVC).
    H265,
}

/// A coded picture, as far as it matters to who begins in the middle of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// Decoding may begin here: an IDR picture, with H.265 any IRAP picture.
    RandomAccess,
    /// Shown before the random access point that it follows, and made from pictures before that one as well:
    /// who began there can't decode it and leaves it out (RASL, ITU-T H.265, 7.4.2.2).
    SkippedLeading,
    Other,
}

impl VideoCodec {
    /// The kind of the picture in an access unit (NAL units with lengths of four bytes before them), by its
    /// first slice. None if there is no slice.
    pub fn picture(self, access_unit: &[u8]) -> Option<Picture> {
        nal_units(access_unit).filter_map(|nal| nal.first()).find_map(|&header| self.slice(header))
    }

    /// The kind of picture that a slice belongs to, by its first byte; none for what is no slice.
    fn slice(self, header: u8) -> Option<Picture> {
        match self {
            // ITU-T H.264, table 7-1: nal_unit_type is the low five bits.
            Self::H264 => match header & 0x1f {
                5 => Some(Picture::RandomAccess),
                1..5 => Some(Picture::Other),
                _ => None,
            },
            // ITU-T H.265, table 7-1: nal_unit_type is the six bits behind the first; 16 to 21 are IRAP.
            Self::H265 => match header >> 1 & 0x3f {
                16..=21 => Some(Picture::RandomAccess),
                8 | 9 => Some(Picture::SkippedLeading),
                0..32 => Some(Picture::Other),
                _ => None,
            },
        }
    }
}

/// The NAL units of an access unit; ends early at one that is torn.
fn nal_units(mut access_unit: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = access_unit.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        access_unit = rest.get(length..).unwrap_or_default();
        Some(rest.get(..length).unwrap_or(rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access_unit(headers: &[u8]) -> Vec<u8> {
        headers.iter().flat_map(|&header| [0, 0, 0, 3, header, 1, 0x80]).collect()
    }

    #[test]
    fn a_picture_is_known_by_its_first_slice() {
        use Picture::{Other, RandomAccess, SkippedLeading};
        use VideoCodec::{H264, H265};
        let cases: [(VideoCodec, &[u8], Option<Picture>); 8] = [
            (H264, &[0x09, 0x65, 0x65], Some(RandomAccess)),
            (H264, &[0x41], Some(Other)),
            (H264, &[0x06, 0x01], Some(Other)),
            (H264, &[0x67, 0x68], None),
            // Delimiter, prefix SEI, IDR.
            (H265, &[35 << 1, 39 << 1, 19 << 1], Some(RandomAccess)),
            (H265, &[32 << 1, 33 << 1, 34 << 1], None),
            // The highest bit of the layer's number stands in the first byte.
            (H265, &[1 << 1 | 1], Some(Other)),
            (H265, &[8 << 1], Some(SkippedLeading)),
        ];
        for (codec, headers, expected) in cases {
            assert_eq!(codec.picture(&access_unit(headers)), expected, "{codec:?} {headers:x?}");
        }
        for kind in 0..64u8 {
            let is_irap = (16..=21).contains(&kind);
            let picture = H265.picture(&access_unit(&[kind << 1]));
            assert_eq!(picture == Some(RandomAccess), is_irap, "type {kind}");
        }
    }

    #[test]
    fn a_torn_access_unit_is_read_as_far_as_it_goes() {
        for (bytes, expected) in [
            (&[0, 0, 0, 200, 0x65][..], Some(Picture::RandomAccess)),
            (&[0, 0, 0, 200, 0x41, 1][..], Some(Picture::Other)),
            (&[0, 0, 0, 0, 0, 0, 0, 1, 0x65][..], Some(Picture::RandomAccess)),
            (&[0, 0, 0, 1], None),
            (&[0, 0], None),
            (&[], None),
        ] {
            assert_eq!(VideoCodec::H264.picture(bytes), expected, "{bytes:?}");
        }
    }
}
