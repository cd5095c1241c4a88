//! A `-h` that fits a screen, made from the same texts as `--help`.

use clap::{Arg, Command};

/// Makes `-h` short: of the options in `typed` it shows the first sentence, of all others the name. `--help`, manual
/// pages and completions keep all of them.
pub fn shorten(command: Command, typed: &[&str]) -> Command {
    let is_typed = |arg: &Arg| arg.get_long().is_none_or(|long| typed.contains(&long));
    let others = command.get_arguments().filter(|arg| !is_typed(arg));
    let others: Vec<_> = others.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
    let command = command.mut_args(|arg| {
        let Some(whole) = arg.get_long_help().or(arg.get_help()).map(ToString::to_string) else { return arg };
        let is_hidden = !is_typed(&arg);
        arg.help(first_sentence(&whole).to_owned()).long_help(whole).hide_short_help(is_hidden)
    });
    let whole = command.get_after_long_help().or(command.get_after_help()).cloned().unwrap_or_default();
    command
        .after_help(format!("More options, which --help explains: {}", others.join(" ")))
        .after_long_help(whole)
}

/// The text up to the first full stop.
fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first)
}
