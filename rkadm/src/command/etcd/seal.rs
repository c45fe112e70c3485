//! Snapshots encrypted at rest: AES-256-GCM in pieces, so that a database of any size passes through a small buffer. Each piece says its number
//! and whether it is the last: pieces can be neither moved nor left out.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// First bytes of an encrypted snapshot.
const MAGIC: &[u8; 8] = b"rk-seal1";
/// Of the nonce; the other four are the piece's number.
const PREFIX: usize = 8;
/// Plain bytes of a piece.
const PIECE: usize = 1 << 20;
const TAG: usize = 16;

/// A key of 32 bytes in hexadecimal, as `rkadm certs certificate-key` prints one.
pub(super) fn key(file: &Path) -> anyhow::Result<LessSafeKey> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read the key {}", file.display()))?;
    let bytes = hex::decode(text.trim()).with_context(|| format!("{} holds no hexadecimal key", file.display()))?;
    let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| {
        anyhow::anyhow!("the key in {} is not 32 bytes long (`rkadm certs certificate-key` makes one)", file.display())
    })?;
    Ok(LessSafeKey::new(key))
}

/// Whether a file is an encrypted snapshot.
pub(super) fn is_sealed(file: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    std::fs::File::open(file).and_then(|mut input| input.read_exact(&mut start)).is_ok() && start == *MAGIC
}

fn nonce(prefix: &[u8; PREFIX], number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..PREFIX].copy_from_slice(prefix);
    bytes[PREFIX..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Reads as much as there is, up to the buffer's size.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match input.read(&mut buffer[have..])? {
            0 => break,
            n => have += n,
        }
    }
    Ok(have)
}

/// Encrypts all of `input`.
pub(super) fn seal(key: &LessSafeKey, input: &mut impl Read, output: &mut impl Write) -> anyhow::Result<()> {
    let prefix: [u8; PREFIX] = rand::random();
    output.write_all(MAGIC)?;
    output.write_all(&prefix)?;
    let mut piece = vec![0; PIECE];
    let mut next = vec![0; PIECE];
    let mut have = fill(input, &mut piece)?;
    for number in 0.. {
        let following = fill(input, &mut next)?;
        let mut sealed = piece[..have].to_vec();
        key.seal_in_place_append_tag(nonce(&prefix, number), Aad::from([u8::from(following == 0)]), &mut sealed)
            .map_err(|_| anyhow::anyhow!("encryption failed"))?;
        output.write_all(&sealed)?;
        if following == 0 {
            return Ok(());
        }
        std::mem::swap(&mut piece, &mut next);
        have = following;
    }
    bail!("the snapshot is too large")
}

/// Decrypts all of `input`; fails on the first piece that is not whole.
pub(super) fn open(key: &LessSafeKey, input: &mut impl Read, output: &mut impl Write) -> anyhow::Result<()> {
    let wrong = "wrong key, or the snapshot is damaged";
    let mut head = [0; MAGIC.len() + PREFIX];
    input.read_exact(&mut head).context(wrong)?;
    let (magic, prefix) = head.split_at(MAGIC.len());
    let prefix: [u8; PREFIX] = prefix.try_into().context("eight bytes")?;
    if magic != MAGIC {
        bail!("this is no encrypted snapshot");
    }
    let mut piece = vec![0; PIECE + TAG];
    let mut next = vec![0; PIECE + TAG];
    let mut have = fill(input, &mut piece)?;
    for number in 0.. {
        let following = fill(input, &mut next)?;
        let mut sealed = piece[..have].to_vec();
        let plain = key
            .open_in_place(nonce(&prefix, number), Aad::from([u8::from(following == 0)]), &mut sealed)
            .map_err(|_| anyhow::anyhow!(wrong))?;
        output.write_all(plain)?;
        if following == 0 {
            return Ok(());
        }
        std::mem::swap(&mut piece, &mut next);
        have = following;
    }
    bail!("the snapshot is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (LessSafeKey, LessSafeKey) {
        let dir = tempfile::tempdir().unwrap();
        let make = |byte: &str| {
            let file = dir.path().join(byte);
            std::fs::write(&file, byte.repeat(32)).unwrap();
            key(&file).unwrap()
        };
        (make("ab"), make("cd"))
    }

    #[test]
    fn only_the_whole_file_with_its_key_opens() {
        let (right, wrong) = keys();
        for size in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
            let plain: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut sealed = Vec::new();
            seal(&right, &mut plain.as_slice(), &mut sealed).unwrap();
            let mut opened = Vec::new();
            open(&right, &mut sealed.as_slice(), &mut opened).unwrap();
            assert_eq!(opened, plain);
            assert!(open(&wrong, &mut sealed.as_slice(), &mut Vec::new()).is_err());
            let mut damaged = sealed.clone();
            *damaged.last_mut().unwrap() ^= 1;
            assert!(open(&right, &mut damaged.as_slice(), &mut Vec::new()).is_err());
            if size > PIECE {
                let cut = MAGIC.len() + PREFIX + PIECE + TAG;
                assert!(open(&right, &mut &sealed[..cut], &mut Vec::new()).is_err(), "a file without its last piece");
            }
        }
    }
}
