//! The providers' formats.
//!
//! Upstream: apiserver/pkg/storage/value/encrypt/{aes,secretbox}

use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::aead::Aead as _;
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305};
use rand::Rng as _;

const BLOCK: usize = 16;
const BOX_NONCE: usize = 24;

/// One key and how it is used.
pub(super) enum Cipher {
    /// As it is.
    Identity,
    /// 12 bytes nonce, then sealed; bound to the key's place in etcd.
    Gcm(LessSafeKey),
    /// 16 bytes IV, then blocks padded as PKCS#7 says. Not authenticated: kept for what upstream wrote.
    Cbc(&'static cipher::Algorithm, Vec<u8>),
    /// 24 bytes nonce, then XSalsa20 and Poly1305.
    SecretBox(Box<XSalsa20Poly1305>),
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill(&mut bytes[..]);
    bytes
}

impl Cipher {
    /// # Errors
    /// The key's length is wrong; upstream's words.
    pub(super) fn gcm(secret: &[u8]) -> Result<Self, String> {
        let algorithm = match secret.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            32 => &aead::AES_256_GCM,
            other => return Err(wrong_length(other, "[16 24 32]")),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|error| error.to_string())?;
        Ok(Self::Gcm(LessSafeKey::new(key)))
    }

    /// # Errors
    /// As [`Cipher::gcm`].
    pub(super) fn cbc(secret: &[u8]) -> Result<Self, String> {
        let algorithm = match secret.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            other => return Err(wrong_length(other, "[16 24 32]")),
        };
        Ok(Self::Cbc(algorithm, secret.to_vec()))
    }

    /// # Errors
    /// As [`Cipher::gcm`].
    pub(super) fn secret_box(secret: &[u8]) -> Result<Self, String> {
        let secret: [u8; 32] = secret.try_into().map_err(|_| wrong_length(secret.len(), "[32]"))?;
        Ok(Self::SecretBox(Box::new(XSalsa20Poly1305::new(&secret.into()))))
    }

    /// Encrypts. `place` is authenticated where the format can.
    pub(super) fn seal(&self, plain: &[u8], place: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Identity => Ok(plain.to_vec()),
            Self::Gcm(key) => {
                let nonce = random::<NONCE_LEN>();
                let mut out = plain.to_vec();
                key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut out)
                    .map_err(|_| "aesgcm failed".to_owned())?;
                Ok([&nonce[..], &out].concat())
            }
            Self::Cbc(algorithm, secret) => {
                let iv = random::<BLOCK>();
                let failed = |_| "aescbc failed".to_owned();
                let key = UnboundCipherKey::new(algorithm, secret).map_err(failed)?;
                let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(failed)?;
                let mut out = plain.to_vec();
                let context = EncryptionContext::Iv128(FixedLength::from(iv));
                key.less_safe_encrypt(&mut out, context).map_err(failed)?;
                Ok([&iv[..], &out].concat())
            }
            Self::SecretBox(key) => {
                let nonce = random::<BOX_NONCE>();
                let out = key.encrypt(&nonce.into(), plain).map_err(|_| "secretbox failed".to_owned())?;
                Ok([&nonce[..], &out].concat())
            }
        }
    }

    /// Decrypts.
    pub(super) fn open(&self, sealed: &[u8], place: &[u8]) -> Result<Vec<u8>, String> {
        let short = || "the stored data was shorter than the required size".to_owned();
        match self {
            Self::Identity => Ok(sealed.to_vec()),
            Self::Gcm(key) => {
                let (nonce, rest) = sealed.split_at_checked(NONCE_LEN).ok_or_else(short)?;
                let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| short())?;
                let mut out = rest.to_vec();
                let length = key
                    .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut out)
                    .map_err(|_| "cipher: message authentication failed".to_owned())?
                    .len();
                out.truncate(length);
                Ok(out)
            }
            Self::Cbc(algorithm, secret) => {
                let (iv, rest) = sealed.split_at_checked(BLOCK).ok_or_else(short)?;
                if rest.is_empty() || rest.len() % BLOCK != 0 {
                    return Err("the stored data is not a multiple of the block size".to_owned());
                }
                let iv: [u8; BLOCK] = iv.try_into().map_err(|_| short())?;
                let failed = |_| "invalid padding on input".to_owned();
                let key = UnboundCipherKey::new(algorithm, secret).map_err(failed)?;
                let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(failed)?;
                let mut out = rest.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(iv));
                let length = key.decrypt(&mut out, context).map_err(failed)?.len();
                out.truncate(length);
                Ok(out)
            }
            Self::SecretBox(key) => {
                let (nonce, rest) = sealed.split_at_checked(BOX_NONCE).ok_or_else(short)?;
                let nonce: [u8; BOX_NONCE] = nonce.try_into().map_err(|_| short())?;
                key.decrypt(&nonce.into(), rest).map_err(|_| "output array was not large enough for encryption".to_owned())
            }
        }
    }
}

fn wrong_length(have: usize, wanted: &str) -> String {
    format!("secret is not of the expected length, got {have}, expected one of {wanted}")
}
