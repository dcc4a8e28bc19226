//! Whether one of the vendors' keys has signed a file: detached OpenPGP signatures (<https://www.rfc-editor.org/rfc/rfc9580>) of the one kind that the vendors
//! make, version 4 by RSA over SHA-2, and keys that are built in. An implementation of all of OpenPGP would bring in some forty crates, with
//! one for RSA that leaks by its timing; what is here reads the frame, and the arithmetic is aws-lc's.
//!
//! Who a key belongs to, and until when, is nobody's word but ours: keys are pinned by their fingerprints. A key's own date of expiry is not
//! looked at, since whoever had stolen it could date a signature before.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents,
};
use base64::Engine as _;

/// The longest signature that is read, bytes.
pub(super) const SIGNATURE_MAX: u64 = 16 * 1024;
/// Packets, as <https://www.rfc-editor.org/rfc/rfc9580#name-packet-tags> numbers them.
const SIGNATURE: u8 = 2;
const PUBLIC_KEY: u8 = 6;
const PUBLIC_SUBKEY: u8 = 14;
/// The only algorithm of keys: RSA, for whatever.
const RSA: u8 = 1;
/// A signature of a file, byte by byte.
const OF_A_FILE: u8 = 0;
/// What a signature may say of itself and must be understood: when it was made, by which key.
const UNDERSTOOD: [u8; 3] = [2, 16, 33];

/// A vendor's key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// In upper-case hexadecimal digits.
    pub(super) fingerprint: String,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

/// The keys of OpenTofu's releases. <https://get.opentofu.org/opentofu.asc>
pub(super) fn opentofu() -> Vec<Key> {
    pinned(include_str!("keys/opentofu.asc"), &["E3E6E43D84CB852EADB0051D0C0AF313E5FD9F80"])
}

/// The keys of HashiCorp's releases: the first and the two that sign for it. <https://www.hashicorp.com/.well-known/pgp-key.txt>
pub(super) fn hashicorp() -> Vec<Key> {
    let fingerprints = [
        "C874011F0AB405110D02105534365D9472D7468F",
        "B36CBA91A2C0730C435FC280B0B441097685B676",
        "374EC75B485913604A831CC7C820C6D5CD27AB87",
    ];
    pinned(include_str!("keys/hashicorp.asc"), &fingerprints)
}

/// Those keys of a block of text that have one of these fingerprints.
fn pinned(armored: &str, fingerprints: &[&str]) -> Vec<Key> {
    let mut keys = Vec::new();
    let bytes = dearmor(armored).unwrap_or_default();
    let mut rest = bytes.as_slice();
    while let Some((tag, body, after)) = packet(rest) {
        rest = after;
        if matches!(tag, PUBLIC_KEY | PUBLIC_SUBKEY) {
            keys.extend(Key::read(body).filter(|key| fingerprints.contains(&key.fingerprint.as_str())));
        }
    }
    keys
}

/// Which of the keys has signed the file.
///
/// # Errors
/// Why it is none, in words.
pub(super) fn signer<'a>(file: &[u8], signature: &[u8], keys: &'a [Key]) -> Result<&'a Key, &'static str> {
    let armored = std::str::from_utf8(signature).ok().and_then(dearmor);
    let signature = armored.as_deref().unwrap_or(signature);
    let (SIGNATURE, body, []) = packet(signature).ok_or("the signature is no whole packet of OpenPGP")? else {
        return Err("the signature is not one signature of OpenPGP");
    };
    let parsed = Signature::read(body)?;
    let mut signed = Vec::with_capacity(file.len() + parsed.hashed.len() + 6);
    signed.extend_from_slice(file);
    signed.extend_from_slice(parsed.hashed);
    signed.extend_from_slice(&[4, 0xff]);
    signed.extend_from_slice(&u32::try_from(parsed.hashed.len()).unwrap_or(u32::MAX).to_be_bytes());
    keys.iter().find(|key| key.has_signed(&signed, &parsed)).ok_or("none of the vendor's keys has made the signature")
}

/// What of a signature counts.
struct Signature<'a> {
    parameters: &'static RsaParameters,
    /// What of it is signed with the file.
    hashed: &'a [u8],
    number: &'a [u8],
}

// === impl Signature ===

impl<'a> Signature<'a> {
    fn read(body: &'a [u8]) -> Result<Self, &'static str> {
        const CUT: &str = "the signature ends early";
        let (&[version, kind, algorithm, hash, high, low], rest) = body.split_first_chunk().ok_or(CUT)?;
        if (version, kind, algorithm) != (4, OF_A_FILE, RSA) {
            return Err("the signature is not of version 4, of a file, by RSA");
        }
        let parameters = match hash {
            8 => &RSA_PKCS1_2048_8192_SHA256,
            9 => &RSA_PKCS1_2048_8192_SHA384,
            10 => &RSA_PKCS1_2048_8192_SHA512,
            _ => return Err("the signature is over a hash other than SHA-256, SHA-384 and SHA-512"),
        };
        let (said, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(CUT)?;
        understood(said)?;
        let hashed = &body[..6 + said.len()];
        let (length, rest) = rest.split_first_chunk().ok_or(CUT)?;
        // what is not signed says nothing
        let (_, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(CUT)?;
        // nor do the hash's first bytes, which only spare a calculation
        let rest = rest.get(2..).ok_or(CUT)?;
        match number(rest) {
            Some((number, [])) => Ok(Self { parameters, hashed, number }),
            _ => Err(CUT),
        }
    }
}

/// Whether all is understood that has to be (<https://www.rfc-editor.org/rfc/rfc9580#section-5.2.3.7>).
fn understood(mut said: &[u8]) -> Result<(), &'static str> {
    const CUT: &str = "what the signature says of itself ends early";
    while !said.is_empty() {
        let (length, rest) = length(said).ok_or(CUT)?;
        let (one, rest) = rest.split_at_checked(length).ok_or(CUT)?;
        let kind = one.first().ok_or(CUT)?;
        if kind & 0x80 != 0 && !UNDERSTOOD.contains(&(kind & 0x7f)) {
            return Err("the signature says what has to be understood, and is not");
        }
        said = rest;
    }
    Ok(())
}

// === impl Key ===

impl Key {
    fn read(body: &[u8]) -> Option<Self> {
        let (&[4, _, _, _, _, RSA], rest) = body.split_first_chunk()? else { return None };
        let (modulus, rest) = number(rest)?;
        let (exponent, _) = number(rest)?;
        // https://www.rfc-editor.org/rfc/rfc9580#name-version-4-key-id-and-finger; SHA-1 names the key here, and signs nothing
        let mut named = vec![0x99];
        named.extend_from_slice(&u16::try_from(body.len()).ok()?.to_be_bytes());
        named.extend_from_slice(body);
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &named);
        let fingerprint = shared_proto::hex::encode(digest).to_uppercase();
        Some(Self { fingerprint, modulus: modulus.to_vec(), exponent: exponent.to_vec() })
    }

    fn has_signed(&self, signed: &[u8], signature: &Signature<'_>) -> bool {
        // as long as the modulus, which a number without its first zeros may not be
        let Some(zeros) = self.modulus.len().checked_sub(signature.number.len()) else { return false };
        let mut padded = vec![0; zeros];
        padded.extend_from_slice(signature.number);
        let key = RsaPublicKeyComponents { n: &self.modulus, e: &self.exponent };
        key.verify(signature.parameters, signed, &padded).is_ok()
    }
}

/// The bytes of an armored block (<https://www.rfc-editor.org/rfc/rfc9580#name-forming-ascii-armor>); its checksum is of no use.
fn dearmor(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines().map(str::trim_end).skip_while(|line| !line.starts_with("-----BEGIN PGP "));
    lines.next()?;
    let body: String = lines
        .skip_while(|line| line.contains(':'))
        .take_while(|line| !line.starts_with('-') && !line.starts_with('='))
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body).ok()
}

/// The first packet: its tag, its body, what comes after.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (tag, (length, rest)) = match first {
        0xc0.. => (first & 0x3f, length(rest)?),
        0x80.. => {
            let (size, tag) = (1_usize << (first & 3), first >> 2 & 0xf);
            // the fourth says no length
            let (said, rest) = rest.split_at_checked(size).filter(|_| size <= 4)?;
            (tag, (said.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest))
        }
        _ => return None,
    };
    let (body, after) = rest.split_at_checked(length)?;
    Some((tag, body, after))
}

/// A length as new packets and what is in signatures have it, and what comes after; a length in parts is none.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    match first {
        0..192 => Some((usize::from(*first), rest)),
        192..224 => {
            let (second, rest) = rest.split_first()?;
            Some(((usize::from(*first) - 192) * 256 + usize::from(*second) + 192, rest))
        }
        255 => {
            let (said, rest) = rest.split_first_chunk()?;
            Some((usize::try_from(u32::from_be_bytes(*said)).ok()?, rest))
        }
        _ => None,
    }
}

/// A large number, and what comes after.
fn number(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (bits, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*bits)).div_ceil(8))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};

    const TERRAFORM: &[u8] = include_bytes!("testdata/terraform_1.9.8_SHA256SUMS");
    const TOFU: &[u8] = include_bytes!("testdata/tofu_1.8.5_SHA256SUMS");

    fn of_hex(text: &str) -> Vec<u8> {
        shared_proto::hex::decode(&text.split_whitespace().collect::<String>())
    }
    fn terraforms() -> Vec<u8> {
        of_hex(include_str!("testdata/terraform_1.9.8_SHA256SUMS.sig.hex"))
    }
    fn tofus() -> Vec<u8> {
        of_hex(include_str!("testdata/tofu_1.8.5_SHA256SUMS.gpgsig.hex"))
    }

    /// A key of a vendor that there is not.
    pub(in crate::engines) struct Vendor {
        pair: KeyPair,
        pub(in crate::engines) key: Key,
    }

    impl Vendor {
        pub(in crate::engines) fn new() -> Self {
            let pair = KeyPair::generate(KeySize::Rsa2048).expect("generates");
            let mpi = |bytes: &[u8]| {
                let bytes = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(0)..];
                let bits = bytes.len() * 8 - bytes[0].leading_zeros() as usize;
                [&u16::try_from(bits).expect("short").to_be_bytes()[..], bytes].concat()
            };
            let public = pair.public_key();
            let (n, e) = (public.modulus(), public.exponent());
            let body = [
                &[4, 0, 0, 0, 1, RSA][..],
                &mpi(n.big_endian_without_leading_zero()),
                &mpi(e.big_endian_without_leading_zero()),
            ];
            let key = Key::read(&body.concat()).expect("a key");
            Self { pair, key }
        }
        pub(in crate::engines) fn sign(&self, file: &[u8]) -> Vec<u8> {
            // made on some day
            self.sign_saying(file, &[5, 2, 1, 2, 3, 4])
        }
        fn sign_saying(&self, file: &[u8], said: &[u8]) -> Vec<u8> {
            let length = u16::try_from(said.len()).expect("short").to_be_bytes();
            let hashed = [&[4, OF_A_FILE, RSA, 8][..], &length, said].concat();
            let trailer = [&[4, 0xff][..], &u32::try_from(hashed.len()).expect("short").to_be_bytes()].concat();
            let mut number = vec![0; self.pair.public_modulus_len()];
            let signed = [file, &hashed, &trailer].concat();
            self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &signed, &mut number).expect("signs");
            let number: Vec<_> = number.into_iter().skip_while(|b| *b == 0).collect();
            let bits = u16::try_from(number.len() * 8).expect("short").to_be_bytes();
            let body = [&hashed[..], &[0, 0, 0, 0], &bits, &number].concat();
            let length = u16::try_from(body.len()).expect("short").to_be_bytes();
            [&[0x89][..], &length, &body].concat()
        }
    }

    #[test]
    fn the_vendors_keys_are_the_ones_that_they_publish() {
        let fingerprints = |keys: Vec<Key>| keys.into_iter().map(|key| key.fingerprint).collect::<Vec<_>>();
        assert_eq!(fingerprints(opentofu()), ["E3E6E43D84CB852EADB0051D0C0AF313E5FD9F80"]);
        // without the one that is for encryption
        assert_eq!(
            fingerprints(hashicorp()),
            [
                "C874011F0AB405110D02105534365D9472D7468F",
                "B36CBA91A2C0730C435FC280B0B441097685B676",
                "374EC75B485913604A831CC7C820C6D5CD27AB87"
            ]
        );
        assert!(pinned("nothing", &["x"]).is_empty());
    }

    #[test]
    fn real_releases_are_signed_by_their_vendor_and_nobody_else() {
        let (hashicorp, opentofu) = (hashicorp(), opentofu());
        let by = |file: &[u8], signature: &[u8], keys: &[Key]| {
            signer(file, signature, keys).map(|key| key.fingerprint.clone())
        };
        assert_eq!(by(TERRAFORM, &terraforms(), &hashicorp).as_deref(), Ok("374EC75B485913604A831CC7C820C6D5CD27AB87"));
        assert_eq!(by(TOFU, &tofus(), &opentofu).as_deref(), Ok("E3E6E43D84CB852EADB0051D0C0AF313E5FD9F80"));
        let none = Err("none of the vendor's keys has made the signature");
        assert_eq!(by(TERRAFORM, &terraforms(), &opentofu), none.map(|(): ()| String::new()));
        assert_eq!(by(TOFU, &terraforms(), &hashicorp), none.map(|(): ()| String::new()));
        let mut changed = TERRAFORM.to_vec();
        changed[0] ^= 1;
        let longer = [TERRAFORM, b"\n"].concat();
        for file in [&changed[..], &longer, &TERRAFORM[1..], b""] {
            assert!(by(file, &terraforms(), &hashicorp).is_err());
        }
    }

    #[test]
    fn a_signature_that_was_changed_or_cut_is_none() {
        let (keys, whole) = (hashicorp(), terraforms());
        for cut in 0..whole.len() {
            assert!(signer(TERRAFORM, &whole[..cut], &keys).is_err(), "cut at {cut}");
        }
        // of the header, of what is signed, and of the number; what is not signed between them may be anything
        let unsigned = whole.len() - 2 - 512 - 4..whole.len() - 2 - 512;
        for at in (0..whole.len()).filter(|at| !unsigned.contains(at)) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            // how many bits its first byte has does not matter, as long as the bytes are as many
            let bits = at == whole.len() - 513;
            assert!(bits || signer(TERRAFORM, &changed, &keys).is_err(), "changed at {at}");
        }
        assert!(signer(TERRAFORM, &[&whole[..], &whole].concat(), &keys).is_err(), "two of them");
    }

    #[test]
    fn what_has_to_be_understood_is_or_it_is_no_signature() {
        let vendor = Vendor::new();
        let keys = [vendor.key.clone()];
        let judged = |said: &[u8]| signer(b"file", &vendor.sign_saying(b"file", said), &keys).is_ok();
        assert!(signer(b"file", &vendor.sign(b"file"), &keys).is_ok());
        assert!(signer(b"other", &vendor.sign(b"file"), &keys).is_err());
        assert!(judged(&[5, 0x80 | 2, 1, 2, 3, 4]), "when it was made");
        assert!(judged(&[2, 20, 0]), "a note that need not be understood");
        assert!(!judged(&[2, 0x80 | 20, 0]), "and one that has to be");
        assert!(!judged(&[5, 0x80 | 3, 0, 0, 0, 1]), "that it expires");
        assert!(!judged(&[9, 2, 0]), "what ends early");
        assert!(!judged(&[0]), "what is nothing");
    }

    #[test]
    fn an_armored_signature_is_taken_as_well() {
        let vendor = Vendor::new();
        let body = base64::engine::general_purpose::STANDARD.encode(vendor.sign(b"file"));
        let armored =
            format!("-----BEGIN PGP SIGNATURE-----\nComment: x\n\n{body}\n=abcd\n-----END PGP SIGNATURE-----\n");
        assert!(signer(b"file", armored.as_bytes(), std::slice::from_ref(&vendor.key)).is_ok());
        assert!(signer(b"file", b"-----BEGIN PGP SIGNATURE-----\n\n!\n", std::slice::from_ref(&vendor.key)).is_err());
    }
}
