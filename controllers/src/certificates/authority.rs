//! Signs: a certificate of what a request may have, and of nothing else that stands in it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, SigningKey};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriterSeq, Tag};

use super::request::{AltName, Request};

/// The longest life of a certificate; requests may ask for less.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The shortest that is granted.
const SHORTEST: Duration = Duration::from_secs(600);
/// Clocks differ: so much earlier a certificate begins.
const BACKDATE: Duration = Duration::from_secs(300);
/// Certificates of shorter life than this end as late as was asked.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Usages by name, with their bit.
const KEY_USAGES: [(&str, usize); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Extended usages by name, in the order in which they stand in a certificate.
const PURPOSES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// An authority that signs: certificate and key.
pub(super) struct Authority {
    key: KeyPair,
    /// DER of its name.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    ends: Timestamp,
    /// The algorithm's number, and whether it has null parameters.
    algorithm: (&'static [u64], bool),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error("the authority's certificate cannot be read")]
    Certificate,
    #[error("the authority's key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the authority's key is of a kind that does not sign here")]
    Algorithm,
    #[error("refusing to sign a certificate that expired in the past: NotAfter={0}")]
    Expired(Timestamp),
    #[error("unrecognized usage values: {0:?}")]
    Usages(Vec<String>),
}

// === impl Authority ===

impl Authority {
    /// Of the first certificate of a PEM bundle, and its key.
    pub(super) fn new(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let (_, block) = parse_x509_pem(certificate.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
        let parsed = block.parse_x509().map_err(|_| AuthorityError::Certificate)?;
        let key = KeyPair::from_pem(key)?;
        let algorithm: (&[u64], bool) = match key.algorithm() {
            a if *a == rcgen::PKCS_ECDSA_P256_SHA256 => (&[1, 2, 840, 10045, 4, 3, 2], false),
            a if *a == rcgen::PKCS_ECDSA_P384_SHA384 => (&[1, 2, 840, 10045, 4, 3, 3], false),
            a if *a == rcgen::PKCS_ED25519 => (&[1, 3, 101, 112], false),
            a if *a == rcgen::PKCS_RSA_SHA256 => (&[1, 2, 840, 113_549, 1, 1, 11], true),
            _ => return Err(AuthorityError::Algorithm),
        };
        let key_id = parsed.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let ends = Timestamp::from_second(parsed.validity().not_after.timestamp());
        Ok(Authority {
            name: parsed.subject().as_raw().to_vec(),
            key_id,
            ends: ends.map_err(|_| AuthorityError::Certificate)?,
            algorithm,
            key,
        })
    }

    /// A certificate, PEM. `serial` is to be random, `asked` the life that the request asks for.
    pub(super) fn sign(
        &self,
        request: &Request,
        usages: &[String],
        asked: Option<Duration>,
        serial: [u8; 16],
        now: Timestamp,
    ) -> Result<String, AuthorityError> {
        let unknown = |usage: &&String| {
            !KEY_USAGES.iter().any(|(name, _)| name == *usage)
                && !PURPOSES.iter().any(|(name, _)| name == *usage)
        };
        let unknown: Vec<String> = usages.iter().filter(unknown).cloned().collect();
        if !unknown.is_empty() {
            return Err(AuthorityError::Usages(unknown));
        }
        if now >= self.ends {
            return Err(AuthorityError::Expired(self.ends));
        }
        let (from, until) = validity(asked, self.ends, now);
        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
                writer.next().write_bigint_bytes(&serial, true);
                self.write_algorithm(writer);
                writer.next().write_der(&self.name);
                writer.next().write_sequence(|writer| {
                    writer.next().write_der(&time(from));
                    writer.next().write_der(&time(until));
                });
                writer.next().write_der(&request.subject);
                writer.next().write_der(&request.public_key);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| self.write_extensions(request, usages, writer));
                });
            });
        });
        let signature = self.key.sign(&body)?;
        let whole = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                self.write_algorithm(writer);
                writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
            });
        });
        Ok(pem("CERTIFICATE", &whole))
    }

    fn write_algorithm(&self, writer: &mut DERWriterSeq<'_>) {
        let (number, null) = self.algorithm;
        writer.next().write_sequence(|writer| {
            writer.next().write_oid(&ObjectIdentifier::from_slice(number));
            if null {
                writer.next().write_null();
            }
        });
    }

    fn write_extensions(&self, request: &Request, usages: &[String], writer: &mut DERWriterSeq<'_>) {
        let has = |name: &str| usages.iter().any(|usage| usage == name);
        let mut bits = [0_u8; 2];
        for (_, bit) in KEY_USAGES.iter().filter(|(name, _)| has(name)) {
            bits[bit / 8] |= 0x80 >> (bit % 8);
        }
        // The last bit set ends the string.
        let length = 16 - usize::try_from(u16::from_be_bytes(bits).trailing_zeros()).unwrap_or(16);
        if length > 0 {
            let value =
                yasna::construct_der(|writer| writer.write_bitvec_bytes(&bits[..length.div_ceil(8)], length));
            write_extension(writer, KEY_USAGE, true, &value);
        }
        let mut purposes: Vec<&[u64]> =
            PURPOSES.iter().filter(|(name, _)| has(name)).map(|(_, oid)| *oid).collect();
        purposes.dedup();
        if !purposes.is_empty() {
            let value = yasna::construct_der(|writer| {
                writer.write_sequence(|writer| {
                    purposes
                        .iter()
                        .for_each(|oid| writer.next().write_oid(&ObjectIdentifier::from_slice(oid)));
                });
            });
            write_extension(writer, EXTENDED_KEY_USAGE, false, &value);
        }
        write_extension(
            writer,
            BASIC_CONSTRAINTS,
            true,
            &yasna::construct_der(|writer| writer.write_sequence(|_| ())),
        );
        if let Some(id) = &self.key_id {
            let value = yasna::construct_der(|writer| {
                writer.write_sequence(|writer| {
                    writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(id));
                });
            });
            write_extension(writer, AUTHORITY_KEY, false, &value);
        }
        if !request.names.is_empty() {
            let value = yasna::construct_der(|writer| {
                writer
                    .write_sequence(|writer| request.names.iter().for_each(|name| write_name(writer, name)));
            });
            // Critical where the subject is empty: then the names are all there is.
            write_extension(writer, SUBJECT_ALT_NAME, request.subject == [0x30, 0], &value);
        }
    }
}

/// From when until when: as long as was asked within the bounds, and never longer than the authority itself.
fn validity(asked: Option<Duration>, authority_ends: Timestamp, now: Timestamp) -> (Timestamp, Timestamp) {
    let life = asked.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
    let lasting = if life < SHORT { life } else { life - BACKDATE };
    let shifted = |by: Duration| SignedDuration::try_from(by).unwrap_or(SignedDuration::ZERO);
    (now - shifted(BACKDATE), (now + shifted(lasting)).min(authority_ends))
}

fn write_extension(writer: &mut DERWriterSeq<'_>, number: &[u64], critical: bool, value: &[u8]) {
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(number));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(value);
    });
}

fn write_name(writer: &mut DERWriterSeq<'_>, name: &AltName) {
    let (tag, bytes) = match name {
        AltName::Email(text) => (1, text.as_bytes()),
        AltName::Dns(text) => (2, text.as_bytes()),
        AltName::Uri(text) => (6, text.as_bytes()),
        AltName::Ip(bytes) => (7, bytes.as_slice()),
    };
    writer.next().write_tagged_implicit(Tag::context(tag), |writer| writer.write_bytes(bytes));
}

/// `UTCTime` until 2049 and `GeneralizedTime` from then on, as RFC 5280 has it.
fn time(at: Timestamp) -> Vec<u8> {
    let late = at.strftime("%Y").to_string().parse().is_ok_and(|year: i32| year >= 2050);
    let (tag, text) = if late {
        (0x18, at.strftime("%Y%m%d%H%M%SZ").to_string())
    } else {
        (0x17, at.strftime("%y%m%d%H%M%SZ").to_string())
    };
    // Fifteen bytes at most: one byte says how many.
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[tag, length][..], text.as_bytes()].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, later) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = later;
    }
    pem + &format!("-----END {label}-----\n")
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, SanType};

    use super::super::request::tests::{pem, words};
    use super::*;

    /// Certificate and key of an authority that ends at the given second.
    pub(in crate::certificates) fn authority(ends: i64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        let date = Timestamp::from_second(ends).unwrap().to_zoned(jiff::tz::TimeZone::UTC).date();
        params.not_after =
            rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_holds_what_was_asked_and_is_signed_by_the_authority() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let (certificate, key) = authority(now.as_second() + 10 * LONGEST.as_secs() as i64);
        let authority = Authority::new(&certificate, &key).unwrap();
        let names =
            vec![SanType::DnsName("n1".try_into().unwrap()), SanType::IpAddress("10.0.0.1".parse().unwrap())];
        let request = Request::parse(pem("system:node:n1", "system:nodes", names).as_bytes()).unwrap();
        let usages =
            words("digital signature,key encipherment,server auth,decipher only,s/mime,email protection");
        let signed = authority.sign(&request, &usages, None, [0xff; 16], now).unwrap();
        let (_, block) = parse_x509_pem(signed.as_bytes()).unwrap();
        let leaf = block.parse_x509().unwrap();
        let (_, ca) = parse_x509_pem(certificate.as_bytes()).unwrap();
        let ca = ca.parse_x509().unwrap();
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.issuer(), ca.subject());
        assert_eq!(leaf.subject().iter_common_name().next().unwrap().as_str().unwrap(), "system:node:n1");
        assert_eq!(leaf.validity().not_before.timestamp(), now.as_second() - 300);
        assert_eq!(leaf.validity().not_after.timestamp(), now.as_second() + 365 * 86400 - 300);
        assert!(!leaf.is_ca());
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(
            usage.digital_signature()
                && usage.key_encipherment()
                && usage.decipher_only()
                && !usage.key_cert_sign()
        );
        let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(
            purposes.server_auth
                && purposes.email_protection
                && !purposes.client_auth
                && purposes.other.is_empty()
        );
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 2);
        assert!(leaf.raw_serial()[0] == 0, "positive");
        assert!(matches!(
            authority.sign(&request, &words("juggling"), None, [1; 16], now),
            Err(AuthorityError::Usages(_))
        ));
        let late: Timestamp = "2200-01-01T00:00:00Z".parse().unwrap();
        assert!(matches!(
            authority.sign(&request, &[], None, [1; 16], late),
            Err(AuthorityError::Expired(_))
        ));
    }

    #[test]
    fn lives_are_bounded_by_what_is_asked_allowed_and_left() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let hour = 3600;
        // Asked, end of the authority; then the end of the certificate, all seconds from now.
        let cases = [
            (None, i64::from(i32::MAX), 8760 * hour - 300),
            (Some(10), i64::from(i32::MAX), 600),
            (Some(hour), i64::from(i32::MAX), hour),
            (Some(8 * hour), i64::from(i32::MAX), 8 * hour - 300),
            (Some(99_999 * hour), i64::from(i32::MAX), 8760 * hour - 300),
            (Some(24 * hour), 2 * hour, 2 * hour),
        ];
        for (asked, ends, expected) in cases {
            let asked = asked.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap()));
            assert_eq!(validity(asked, at(ends), at(0)), (at(-300), at(expected)), "{asked:?} {ends}");
        }
        assert_eq!(time("2049-12-31T23:59:59Z".parse().unwrap())[0], 0x17);
        assert_eq!(time("2050-01-01T00:00:00Z".parse().unwrap())[..2], [0x18, 15]);
    }
}
