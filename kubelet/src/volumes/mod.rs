//! Volumes: made on the host, mounted into containers.
