#![no_main]
coracle_fuzz::target!(coracle::fuzz::kubeconfigs);
