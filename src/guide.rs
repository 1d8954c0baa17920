// The chapters are text; what is Rust in them the documentation tests compile and run.

#![doc = include_str!("guide/index.md")]

pub mod first_server {
    #![doc = include_str!("guide/first_server.md")]
}

pub mod framing {
    #![doc = include_str!("guide/framing.md")]
}

pub mod backpressure {
    #![doc = include_str!("guide/backpressure.md")]
}

pub mod closing {
    #![doc = include_str!("guide/closing.md")]
}

pub mod dead_peers {
    #![doc = include_str!("guide/dead_peers.md")]
}

pub mod timeouts {
    #![doc = include_str!("guide/timeouts.md")]
}

pub mod clients {
    #![doc = include_str!("guide/clients.md")]
}

pub mod tls {
    #![doc = include_str!("guide/tls.md")]
}

pub mod threads {
    #![doc = include_str!("guide/threads.md")]
}

pub mod cores {
    #![doc = include_str!("guide/cores.md")]
}

pub mod upgrading {
    #![doc = include_str!("guide/upgrading.md")]
}

pub mod pipes {
    #![doc = include_str!("guide/pipes.md")]
}

pub mod embedding {
    #![doc = include_str!("guide/embedding.md")]
}

pub mod testing {
    #![doc = include_str!("guide/testing.md")]
    #![doc = "\n"]
    // Without the feature there is no such module in the documentation.
    #![cfg_attr(feature = "sim", doc = include_str!("guide/links_here.md"))]
    #![cfg_attr(not(feature = "sim"), doc = include_str!("guide/links_there.md"))]
}

pub mod broken_pipes {
    #![doc = include_str!("guide/broken_pipes.md")]
    #![doc = "```"]
    #![doc = include_str!("guide/handlers.rs")]
    #![doc = "```"]
    #![doc = include_str!("guide/causes.md")]
}
