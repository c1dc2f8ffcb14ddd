//! How long a certificate holds, and when another is to take its place. Pure.

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use x509_parser::pem::parse_x509_pem;

use super::{CA_DAYS, LEAF_DAYS, PkiError};

/// The time a certificate holds for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// What it is made to live: of those that hold from the beginning of time, the first part does not count.
    days: i64,
    /// Between 0 and 1, the certificate's own: so that a cluster's nodes do not renew all at once, and a restart changes
    /// nothing.
    jitter: f64,
}

// === impl Validity ===

impl Validity {
    /// Of the first certificate of a PEM bundle.
    pub fn of(pem: &str) -> Result<Self, PkiError> {
        let unusable = |e: String| PkiError::Unusable(format!("a certificate ({e})"));
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let certificate = block.parse_x509().map_err(|e| unusable(e.to_string()))?;
        let validity = certificate.validity();
        let time = |second: i64| Timestamp::from_second(second).map_err(|e| unusable(e.to_string()));
        let [high, low, ..] = <[u8; 32]>::from(Sha256::digest(&block.contents));
        Ok(Validity {
            not_before: time(validity.not_before.timestamp())?,
            not_after: time(validity.not_after.timestamp())?,
            days: if certificate.is_ca() { CA_DAYS } else { LEAF_DAYS },
            jitter: f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX),
        })
    }

    /// Whether the certificate is accepted at this time.
    pub fn holds(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// When 70 to 90 percent of its life are over, as upstream's certificate manager has it.
    pub fn renew_at(&self) -> Timestamp {
        let life =
            self.not_after.duration_since(self.not_before).min(SignedDuration::from_hours(24 * self.days));
        let left = life.as_secs_f64() * (0.3 - 0.2 * self.jitter);
        self.not_after.checked_sub(SignedDuration::from_secs_f64(left)).unwrap_or(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_at_70_to_90_percent_of_their_life() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let day = |from: Timestamp, to: Timestamp| to.duration_since(from).as_hours() / 24;
        let start = at("2026-12-01T00:00:00Z");
        let end = start + SignedDuration::from_hours(24 * 365);
        for (jitter, expected) in [(0.0, 255), (0.5, 292), (1.0, 328)] {
            let signed = Validity { not_before: start, not_after: end, days: LEAF_DAYS, jitter };
            assert_eq!(day(start, signed.renew_at()), expected);
            // Of one that holds from 1970 on, the life of a leaf counts.
            let own = Validity { not_before: Timestamp::UNIX_EPOCH, ..signed };
            assert_eq!(own.renew_at(), signed.renew_at());
        }
        let end = start + SignedDuration::from_hours(1);
        let hour = Validity { not_before: start, not_after: end, days: LEAF_DAYS, jitter: 1.0 };
        assert_eq!(hour.renew_at(), start + SignedDuration::from_mins(54));
    }
}
