//! Commands and their output. Holds no logic.
