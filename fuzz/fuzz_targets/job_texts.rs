#![no_main]
coracle_fuzz::target!(coracle_controllers::fuzz::job_texts);
