//! MD5 (RFC 1321), for the one thing that still asks for it: the engines send it with a state, as `Content-MD5`. It protects nothing.

/// Shifts of the four rounds.
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The digest.
pub(super) fn digest(content: &[u8]) -> [u8; 16] {
    let mut sums: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    // the integer parts of 2^32 times |sin(n)|, n from 1 on
    let sines: [u32; 64] = std::array::from_fn(|n| (((n + 1) as f64).sin().abs() * 4_294_967_296.0) as u32);
    let (blocks, rest) = content.as_chunks::<64>();
    blocks.iter().for_each(|block| mix(&mut sums, block, &sines));
    let mut last = [0; 128];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x80;
    let length = if rest.len() < 56 { 64 } else { 128 };
    last[length - 8..length].copy_from_slice(&(content.len() as u64).wrapping_mul(8).to_le_bytes());
    last[..length].as_chunks::<64>().0.iter().for_each(|block| mix(&mut sums, block, &sines));
    let mut digest = [0; 16];
    for (bytes, sum) in digest.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        *bytes = sum.to_le_bytes();
    }
    digest
}

fn mix(sums: &mut [u32; 4], block: &[u8; 64], sines: &[u32; 64]) {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let [mut a, mut b, mut c, mut d] = *sums;
    for step in 0..64 {
        let (mixed, word) = match step / 16 {
            0 => ((b & c) | (!b & d), step),
            1 => ((d & b) | (!d & c), 5 * step + 1),
            2 => (b ^ c ^ d, 3 * step + 5),
            _ => (c ^ (b | !d), 7 * step),
        };
        let sum = a.wrapping_add(mixed).wrapping_add(sines[step]).wrapping_add(words[word % 16]);
        (a, d, c) = (d, c, b);
        b = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
    }
    for (sum, one) in sums.iter_mut().zip([a, b, c, d]) {
        *sum = sum.wrapping_add(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digests_of_the_rfc_and_of_every_length_of_a_last_block() {
        for (text, expected) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
        ] {
            assert_eq!(shared_proto::hex::encode(digest(text.as_bytes())), expected, "{text}");
        }
        // md5sum's own, of what was digested for 0 to 199 bytes
        let all: Vec<u8> = (0..200).flat_map(|length| digest(&vec![b'x'; length])).collect();
        assert_eq!(shared_proto::hex::encode(digest(&all)), "236291006a2f1dc7b00bd978802ff8c6");
    }
}
