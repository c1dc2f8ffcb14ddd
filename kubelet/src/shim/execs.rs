//! What becomes of a container's further processes, as the loop hears of it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::connection::{Connection, Role};
use super::exec::Refused;
use super::protocol::Reply;
use super::serve::Shim;
use super::{held, verify};

impl Shim {
    /// An exec's process has said something.
    pub(super) fn listen(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Role::Starting(starting) = &mut connection.role else { return };
        if let Err(refused) = starting.listen() {
            starting.kill();
            connection.role = Role::Idle;
            connection.reply(&Reply::Refused { code: refused.code, message: refused.message }, None);
        }
    }

    /// A process of an exec stands before its program: it runs when it is as it shall be.
    pub(super) fn at_program(&mut self, pid: Pid) {
        let own = |connection: &&mut Connection| matches!(&connection.role, Role::Starting(starting) if starting.pid() == Some(pid));
        let Some(connection) = self.connections.iter_mut().find(own) else {
            // Its client has gone.
            let _ = kill(pid, Signal::SIGKILL);
            return;
        };
        let found = verify::further_process(&self.config, &self.spec, self.init.as_raw(), pid.as_raw());
        let right = match found {
            Ok(found) if found.is_empty() => held::release(pid).map_err(|error| error.to_string()),
            Ok(found) => Err(format!("the process is not confined as asked: {}", found.join("; "))),
            Err(error) => Err(format!("the process cannot be looked at: {error}")),
        };
        let Role::Starting(mut starting) = std::mem::replace(&mut connection.role, Role::Exec(pid)) else {
            return;
        };
        match right {
            Ok(()) => connection.reply(&Reply::Started, starting.take_terminal().as_ref()),
            Err(message) => {
                starting.kill();
                connection.role = Role::Idle;
                connection.reply(&Reply::Refused { code: 126, message }, None);
            }
        }
    }

    pub(super) fn exec_ended(&mut self, pid: Pid, code: i32) {
        self.connections.retain_mut(|connection| match &mut connection.role {
            Role::Exec(own) if *own == pid => {
                connection.reply(&Reply::Exit { code }, None);
                false
            }
            Role::Starting(starting) if starting.pid() == Some(pid) => {
                let Refused { code, message } = starting.failure();
                connection.reply(&Reply::Refused { code, message }, None);
                false
            }
            _ => true,
        });
    }
}
