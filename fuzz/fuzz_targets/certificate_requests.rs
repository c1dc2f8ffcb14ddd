#![no_main]
coracle_fuzz::target!(coracle_controllers::fuzz::certificate_requests);
