//! Every input that a fuzz target has kept, in `tests/corpus/`.

use std::fs;
use std::path::Path;

fn corpora() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus"))
}

fn replay(name: &str, check: fn(&[u8])) {
    let mut count = 0;
    for entry in fs::read_dir(corpora().join(name)).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display()); // shown if it fails
        check(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "an empty corpus tests nothing");
}

macro_rules! replayed {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), crate::$name::check);
        })*

        #[test]
        fn none_is_forgotten() {
            let mut found: Vec<_> =
                fs::read_dir(corpora()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            found.sort();
            assert_eq!(found, [$(stringify!($name)),*]);
        }
    };
}
replayed!(ancillary conditions datagram durations judgement numbers schedule targets trains);
