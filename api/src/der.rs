//! Distinguished names in DER, read strictly. Parsers of certificates pass over what they do not understand, others do not:
//! a name that two of them read differently names nobody.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const TYPE: u8 = 0x06;

/// How many attributes a name has: a sequence of sets of sequences of a type and a value, each filled to its end. `None`
/// where it is anything else.
pub fn attributes_of_name(name: &[u8]) -> Option<usize> {
    let mut count = 0;
    let mut sets = only(name, SEQUENCE)?;
    while !sets.is_empty() {
        let (mut attributes, after) = first(sets, SET)?;
        sets = after;
        while !attributes.is_empty() {
            let (attribute, after) = first(attributes, SEQUENCE)?;
            attributes = after;
            let (_, value) = first(attribute, TYPE)?;
            only(value, *value.first()?)?;
            count += 1;
        }
    }
    Some(count)
}

/// Whether the bytes are one sequence, and nothing else.
pub fn is_sequence(bytes: &[u8]) -> bool {
    only(bytes, SEQUENCE).is_some()
}

/// The content of the only element.
fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    first(bytes, tag).filter(|(_, after)| after.is_empty()).map(|(content, _)| content)
}

/// The content of the first element, which must have this tag, and what follows it.
fn first(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [found, short @ 0..=0x7f, rest @ ..] if *found == tag => (usize::from(*short), rest),
        [found, 0x81, length @ 0x80..=0xff, rest @ ..] if *found == tag => (usize::from(*length), rest),
        [found, 0x82, high @ 1..=0xff, low, rest @ ..] if *found == tag => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        // Nobody's name is longer.
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let mut out = vec![tag];
        match length {
            0..0x80 => out.push(length as u8),
            0x80..0x100 => out.extend([0x81, length as u8]),
            _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        [out, content.to_vec()].concat()
    }

    fn attribute(value: &[u8]) -> Vec<u8> {
        element(0x30, &[element(6, &[0x55, 4, 3]), element(0x0c, value)].concat())
    }

    #[test]
    fn names_are_whole_or_none() {
        let one = |value: &[u8]| element(0x31, &attribute(value));
        for (sets, count) in [
            (vec![], 0),
            (vec![one(b"a"), one(b"b")], 2),
            (vec![element(0x31, &[attribute(b"a"), attribute(b"b")].concat())], 2),
            (vec![one(&[b'x'; 100]), one(&[b'x'; 200]), one(&[b'x'; 70_000 - 5_000])], 3),
        ] {
            let name = element(0x30, &sets.concat());
            let whole = name.len() < 0x1_0000;
            assert_eq!(attributes_of_name(&name), whole.then_some(count), "{sets:?}");
        }
        let good = element(0x30, &one(b"a"));
        let mut longer = good.clone();
        longer[1] += 1;
        for bad in [
            &good[..good.len() - 1],
            &[&good[..], b"x"].concat(),
            &longer,
            &element(0x30, &[one(b"a"), b"junk".to_vec()].concat()),
            &element(0x30, &element(0x31, &[attribute(b"a"), vec![5, 0]].concat())),
            &element(0x30, &element(0x31, &element(0x30, &element(6, &[0x55, 4, 3])))),
            &[0x30, 0x81, 2, 0x31, 0],
            &[0x30, 0x80, 0, 0],
            &[],
        ] {
            assert_eq!(attributes_of_name(bad), None, "{bad:02x?}");
        }
        for (bytes, whole) in [(&good[..], true), (&longer, false), (&[&good[..], b"x"].concat(), false)] {
            assert_eq!(is_sequence(bytes), whole, "{bytes:02x?}");
        }
    }
}
