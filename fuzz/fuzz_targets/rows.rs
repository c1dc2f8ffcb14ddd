#![no_main]
coracle_fuzz::target!(coracle_apiserver::fuzz::rows);
