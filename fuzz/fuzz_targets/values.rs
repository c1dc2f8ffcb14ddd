#![no_main]
coracle_fuzz::target!(coracle_api::fuzz::values);
