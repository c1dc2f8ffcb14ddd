//! The program: command line, composition of the components, and a library entry for tests.
