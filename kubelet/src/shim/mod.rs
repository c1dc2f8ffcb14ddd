//! The single-threaded process that owns one container.

/// Entry of `coracle shim <dir>`: must run before the process has a second thread. Returns the exit code.
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    i32::from(args.is_empty())
}
