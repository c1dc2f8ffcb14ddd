#![no_main]
coracle_fuzz::target!(coracle_kubelet::fuzz::records);
