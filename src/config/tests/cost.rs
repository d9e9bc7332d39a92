//! What reading costs: run in release with `--ignored --nocapture`; CPU time of the reading thread, from the kernel.

use super::*;
use crate::config::Files;

const FILES: usize = 10;
const USERS: usize = 100_000;
const ROUNDS: u32 = 20;

fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

fn credentials(file: usize, word: &str) -> String {
    (0..USERS / FILES)
        .map(|user| {
            let number = file * USERS / FILES + user;
            format!(
                "[[users]]\nmerchant_id = \"bece038f-2e46-49f4-b25e-89cd38d6dc{file:02}\"\nnumber = \"+4478{number:08}\"\n\
                 password = \"{word}-{number}\"\n\n"
            )
        })
        .collect()
}

#[test]
#[ignore = "a measurement"]
fn what_a_hundred_thousand_users_cost() {
    let main = format!("credentials_files = [\"c/*.toml\"]\n{VAULT}");
    let directory = directory(&[("main.toml", main.as_bytes())]);
    fs::create_dir(directory.path().join("c")).expect("a directory");
    for file in 0..FILES {
        fs::write(directory.path().join(format!("c/{file}.toml")), credentials(file, "first")).expect("a file");
    }
    let rewrite = |file: usize, word: &str| {
        let new = directory.path().join("new");
        fs::write(&new, credentials(file, word)).expect("a file");
        fs::rename(&new, directory.path().join(format!("c/{file}.toml"))).expect("renamed");
    };
    let start = cpu();
    let (mut files, loaded) = Files::open(&directory.path().join("main.toml")).expect("is good");
    println!("open: {:?} for {} users", cpu() - start, loaded.config.users.len());
    let (mut looks, mut ones, mut alls) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let start = cpu();
        (0..1000).for_each(|_| assert!(!files.changed()));
        looks += cpu() - start;

        rewrite(3, &format!("one{round}"));
        let start = cpu();
        drop(files.reload().expect("is good"));
        ones += cpu() - start;

        (0..FILES).for_each(|file| rewrite(file, &format!("all{round}")));
        let start = cpu();
        drop(files.reload().expect("is good"));
        alls += cpu() - start;
    }
    println!("a look: {:?}; one of {FILES} changed: {:?}; all: {:?}", looks / 1000 / ROUNDS, ones / ROUNDS, alls / ROUNDS);
}
