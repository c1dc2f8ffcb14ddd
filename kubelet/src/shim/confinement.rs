//! The last steps before a program: its system call filter and its capabilities.
//!
//! libcontainer would compile the filter anew for each container, so it gets a configuration without one, and with the
//! capabilities that loading it takes; what the program shall have is set here. `exec` takes the same path.

use std::io;
use std::path::PathBuf;

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::LinuxCapabilities;
use libcontainer::syscall::syscall::create_syscall;
use serde::{Deserialize, Serialize};

use crate::sys::seccomp::Filter;

/// What `shim.json` says of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Confinement {
    pub(crate) capabilities: Option<LinuxCapabilities>,
    /// The compiled filter.
    pub(crate) filter: Option<PathBuf>,
    pub(crate) no_new_privileges: bool,
    /// Under the filter no process can be made: it is loaded where none is to be made any more.
    #[serde(default)]
    pub(crate) forbids_fork: bool,
}

/// With the filter read, since the program's root cannot see its file.
pub(super) struct Confiner {
    confinement: Confinement,
    filter: Option<Filter>,
}

// === impl Confiner ===

impl Confiner {
    pub(super) fn new(confinement: &Confinement) -> io::Result<Confiner> {
        let bytes = confinement.filter.as_ref().map(std::fs::read).transpose()?;
        let filter = bytes.map(|bytes| Filter::from_bytes(&bytes)).transpose()?;
        Ok(Confiner { confinement: confinement.clone(), filter })
    }

    pub(super) fn forbids_fork(&self) -> bool {
        self.confinement.forbids_fork
    }

    /// Confines this process for good.
    pub(super) fn apply(&self) -> io::Result<()> {
        let load = || self.filter.as_ref().map_or(Ok(()), Filter::load);
        // Without no_new_privs loading a filter needs privileges, which are about to go.
        if !self.confinement.no_new_privileges {
            load()?;
        }
        if let Some(capabilities) = &self.confinement.capabilities {
            drop_privileges(capabilities, create_syscall().as_ref()).map_err(io::Error::other)?;
        }
        if self.confinement.no_new_privileges { load() } else { Ok(()) }
    }
}
