//! An event's JSON: completing an occurrence from its master, and comparing what readers see.
