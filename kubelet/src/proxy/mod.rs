//! Services in nftables.
