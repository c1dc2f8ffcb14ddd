#![no_main]
coracle_fuzz::target!(coracle_apiserver::fuzz::json_paths);
