//! Images: pull, import, unpack, mount.
