//! PEM blocks: tolerant to read (text around blocks is skipped, as openssl writes it), exact to write (64 columns).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Error;

/// One `-----BEGIN label-----` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub label: String,
    pub der: Vec<u8>,
}

/// Every block of `text`, in order. An unterminated or undecodable block is an error; no block at all is an empty list.
pub fn parse(text: &[u8]) -> Result<Vec<Block>, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::malformed("PEM", "it is not text"))?;
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = line.trim().strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else { continue };
        let end = format!("-----END {label}-----");
        let mut body = String::new();
        loop {
            let Some(line) = lines.next() else {
                return Err(Error::malformed("PEM", format!("the {label} block has no end")));
            };
            let line = line.trim();
            if line == end {
                break;
            }
            // RFC 1421 headers (`Proc-Type: 4,ENCRYPTED`) mean a passphrase, which no component of a cluster can type.
            if line.starts_with("Proc-Type:") || line.starts_with("DEK-Info:") {
                return Err(Error::malformed("PEM", format!("the {label} block is encrypted with a passphrase")));
            }
            body.push_str(line);
        }
        let der = STANDARD.decode(&body).map_err(|e| Error::malformed("PEM", format!("the {label} block: {e}")))?;
        blocks.push(Block { label: label.to_string(), der });
    }
    Ok(blocks)
}

/// `der` as one block with a final newline.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for start in (0..body.len()).step_by(64) {
        out.push_str(&body[start..body.len().min(start + 64)]);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_with_text_around_it() {
        let der: Vec<u8> = (0..200u8).collect();
        let text = format!("subject=CN = x\n{}trailing\n{}", encode("CERTIFICATE", &der), encode("EC PRIVATE KEY", &[1]));
        let blocks = parse(text.as_bytes()).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!((blocks[0].label.as_str(), &blocks[0].der), ("CERTIFICATE", &der));
        assert_eq!(blocks[1].label, "EC PRIVATE KEY");
    }

    #[test]
    fn broken_blocks_are_errors() {
        assert!(parse(b"-----BEGIN X-----\nAAAA\n").is_err(), "no end");
        assert!(parse(b"-----BEGIN X-----\n!!!!\n-----END X-----\n").is_err(), "not base64");
        assert!(
            parse(b"-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END X-----\n")
                .unwrap_err()
                .to_string()
                .contains("passphrase")
        );
        assert!(parse(b"\xff\xfe").is_err());
        assert_eq!(parse(b"nothing").unwrap(), vec![]);
    }
}
