//! The log and the world in memory; SQLite and PostgreSQL behind them.
