//! Word from the kernel of every change of nftables: which of our tables others have damaged.
//!
//! A transaction's notes come together and end with one that names the process (`NFT_MSG_NEWGEN`). What our own `nft` has
//! done is no damage; a table that is gone after a transaction always is.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use parking_lot::Mutex;

/// `NFNLGRP_NFTABLES`
const GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u8 = 0;
const DEL_TABLE: u8 = 2;
const NEW_GENERATION: u8 = 15;
/// `NFTA_TABLE_NAME`, and at the same place the table's name in chains, rules, sets and their elements.
const TABLE_NAME: u16 = 1;
/// `NFTA_GEN_PROC_PID`
const PROCESS: u16 = 2;
/// Netlink's header, and nfnetlink's behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
/// Room for the notes of a large transaction.
const BUFFER: usize = 4 << 20;

/// The `nft` processes that we have run; enough of them for those whose word is still on its way.
static OWN: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
const OWN_KEPT: usize = 256;

/// Notes that this process is ours, before it changes anything.
pub(super) fn note_own(process: u32) {
    let mut own = OWN.lock();
    own.push_back(process);
    if own.len() > OWN_KEPT {
        own.pop_front();
    }
}

/// A subscription.
pub(super) struct NftEvents {
    socket: TokioSocket,
    state: State,
}

/// What the notes have told so far.
struct State {
    tables: &'static [&'static str],
    /// Touched since the last transaction's end.
    touched: BTreeSet<&'static str>,
    /// Gone, by the last note about them.
    gone: BTreeSet<&'static str>,
    /// Whether the kernel names processes as we do: not where we run in a process namespace of our own.
    named: bool,
}

// === impl NftEvents ===

impl NftEvents {
    pub(super) fn open(tables: &'static [&'static str]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(libc::NETLINK_NETFILTER as isize)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(GROUP)?;
        // A smaller one loses notes, which is told and mended.
        let _ = socket.socket_mut().set_rx_buf_sz(BUFFER as libc::c_int);
        Ok(NftEvents { socket, state: State::new(tables) })
    }

    /// Waits until others have damaged some of the tables; says which.
    pub(super) async fn damaged(&mut self) -> io::Result<BTreeSet<&'static str>> {
        loop {
            let damaged = match self.socket.recv_from_full().await {
                Ok((notes, _)) => self.state.take(&notes, |process| OWN.lock().contains(&process)),
                // Notes were lost: anything may have happened.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.state.tables.iter().copied().collect()
                }
                Err(e) => return Err(e),
            };
            if !damaged.is_empty() {
                return Ok(damaged);
            }
        }
    }
}

// === impl State ===

impl State {
    fn new(tables: &'static [&'static str]) -> Self {
        State { tables, touched: BTreeSet::new(), gone: BTreeSet::new(), named: false }
    }

    /// Takes notes in; answers the tables that were damaged by transactions that end in them.
    fn take(&mut self, notes: &[u8], is_own: impl Fn(u32) -> bool) -> BTreeSet<&'static str> {
        let mut damaged = BTreeSet::new();
        let mut rest = notes;
        while let Some((kind, payload, after)) = message(rest) {
            rest = after;
            if kind >> 8 != SUBSYSTEM {
                continue;
            }
            let attributes = payload.get(FAMILY_HEADER..).unwrap_or_default();
            let [what, _] = kind.to_le_bytes();
            if what == NEW_GENERATION {
                let own = attribute(attributes, PROCESS)
                    .and_then(|v| Some(u32::from_be_bytes(v.get(..4)?.try_into().ok()?)))
                    .is_some_and(&is_own);
                self.named |= own;
                let touched = std::mem::take(&mut self.touched);
                damaged.extend(touched.iter().filter(|t| self.gone.contains(*t)));
                if self.named && !own {
                    damaged.extend(touched);
                }
                continue;
            }
            let name = attribute(attributes, TABLE_NAME).unwrap_or_default();
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            let Some(table) = self.tables.iter().find(|t| t.as_bytes() == name) else { continue };
            self.touched.insert(table);
            match what {
                NEW_TABLE => drop(self.gone.remove(table)),
                DEL_TABLE => drop(self.gone.insert(table)),
                _ => {}
            }
        }
        damaged
    }
}

/// Notes of anybody's making name no table that is not ours.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn hostile_notes(notes: &[u8]) {
    let mut state = State::new(&["coracle", "coracle_pods"]);
    for is_own in [false, true] {
        assert!(state.take(notes, |_| is_own).is_subset(&state.tables.iter().copied().collect()));
    }
}

/// The first message's type and payload, and what follows it.
fn message(notes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(notes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(notes.get(4..6)?.try_into().ok()?);
    let payload = notes.get(HEADER..length)?;
    Some((kind, payload, notes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The value of an attribute.
fn attribute(mut all: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(all.get(..2)?.try_into().ok()?));
        // The two highest bits say how the value is made.
        let kind = u16::from_ne_bytes(all.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = all.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        all = all.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &[&str] = &["coracle", "coracle_pods"];
    const DEL_RULE: u8 = 8;

    fn note(what: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
        let mut attributes = vec![];
        for (kind, value) in [(60, &[1_u8, 2, 3][..]), (attribute, value)] {
            attributes.extend((u16::try_from(value.len()).unwrap() + 4).to_ne_bytes());
            attributes.extend(u16::to_ne_bytes(kind));
            attributes.extend(value);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
        let mut note = vec![];
        note.extend(u32::try_from(HEADER + FAMILY_HEADER + attributes.len()).unwrap().to_ne_bytes());
        note.extend(((SUBSYSTEM << 8) | u16::from(what)).to_ne_bytes());
        note.resize(HEADER + FAMILY_HEADER, 0);
        note.extend(attributes);
        note
    }

    fn of(what: u8, table: &str) -> Vec<u8> {
        note(what, TABLE_NAME, &[table.as_bytes(), &[0]].concat())
    }

    fn by(process: u32) -> Vec<u8> {
        note(NEW_GENERATION, PROCESS, &process.to_be_bytes())
    }

    #[test]
    fn what_others_change_and_what_is_gone_is_damage() {
        const OURS: u32 = 7;
        let own = |process| process == OURS;
        let replaced = [
            of(NEW_TABLE, "coracle"),
            of(DEL_RULE, "coracle"),
            of(DEL_TABLE, "coracle"),
            of(NEW_TABLE, "coracle"),
        ];
        let mut state = State::new(TABLES);
        let mut take = |notes: &[Vec<u8>]| state.take(&notes.concat(), own).into_iter().collect::<Vec<_>>();
        // Before it is known that processes have the same names here, only what is gone counts.
        assert!(take(&[of(DEL_RULE, "coracle"), by(1)]).is_empty());
        assert_eq!(take(&[of(DEL_TABLE, "coracle"), by(1)]), ["coracle"]);
        assert!(take(&[&replaced[..], &[by(OURS)]].concat()).is_empty());
        assert_eq!(take(&[of(DEL_RULE, "coracle"), by(1)]), ["coracle"]);
        assert!(take(&[of(DEL_TABLE, "others"), by(1)]).is_empty());
        assert!(take(&[of(DEL_TABLE, "coracle_pods")]).is_empty(), "a transaction may come in parts");
        assert_eq!(take(&[of(DEL_TABLE, "coracle"), by(1)]), TABLES);
        assert!(take(&[by(1)]).is_empty());
    }

    #[test]
    fn broken_notes_are_no_notes() {
        let mut state = State::new(TABLES);
        let whole = [of(DEL_TABLE, "coracle"), by(1)].concat();
        for end in 0..whole.len() {
            assert!(State::new(TABLES).take(&whole[..end], |_| false).is_empty());
        }
        for n in 0..whole.len() {
            let mut broken = whole.clone();
            broken[n] = 0xff;
            state.take(&broken, |_| false);
        }
    }
}
