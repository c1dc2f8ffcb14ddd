//! Admission: one ordered list of plugins between decoding and storing.
