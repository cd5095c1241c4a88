//! Tests the colors of the style sheet: readers see them on their background, and can tell those of one plot apart with
//! any kind of color vision.

use super::STYLE;
use super::plot::Ink;

type Rgb = [f64; 3];

/// How much a kind of vision lacks: Machado, Oliveira and Fernandes (2009), at the greatest severity, on linear RGB.
const VISIONS: [(&str, [Rgb; 3]); 4] = [
    ("usual vision", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    (
        "protanopia",
        [
            [0.152_286, 1.052_583, -0.204_868],
            [0.114_503, 0.786_281, 0.099_216],
            [-0.003_882, -0.048_116, 1.051_998],
        ],
    ),
    (
        "deuteranopia",
        [
            [0.367_322, 0.860_646, -0.227_968],
            [0.280_085, 0.672_501, 0.047_413],
            [-0.011_820, 0.042_940, 0.968_881],
        ],
    ),
    (
        "tritanopia",
        [
            [1.255_528, -0.076_749, -0.178_779],
            [-0.078_411, 0.930_809, 0.147_602],
            [0.004_733, 0.691_367, 0.303_900],
        ],
    ),
];

/// Contrast of lines and bars (WCAG 2.2, 1.4.11), and of text (1.4.3).
const CONTRAST_MIN: f64 = 3.0;
const TEXT_CONTRAST_MIN: f64 = 4.5;
/// Hundredths of Oklab's unit. Two is a difference that is just seen side by side; lines of a plot are not side by side.
const DIFFERENCE_MIN: f64 = 8.0;

/// The colors of one scheme, by their names.
struct Scheme(Vec<(String, Rgb)>);

impl Scheme {
    /// The light one, and the dark one.
    fn both() -> [Self; 2] {
        let dark = STYLE.find("@media (prefers-color-scheme: dark)").expect("a dark scheme");
        let end = dark + STYLE[dark..].find("\n}\n").expect("its end");
        [Self::read(&STYLE[..dark]), Self::read(&STYLE[dark..end])]
    }

    fn read(rules: &str) -> Self {
        let colors = rules.split("--").skip(1).filter_map(|rule| {
            let (name, value) = rule.split_once(": #")?;
            let digits = value.get(..6)?;
            let channel = |at| {
                let share = f64::from(u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?) / 255.0;
                Some(if share <= 0.040_45 { share / 12.92 } else { ((share + 0.055) / 1.055).powf(2.4) })
            };
            Some((name.to_owned(), [channel(0)?, channel(2)?, channel(4)?]))
        });
        Self(colors.collect())
    }

    fn color(&self, name: &str) -> Rgb {
        self.0.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no color --{name}")).1
    }
}

fn times(matrix: &[Rgb; 3], by: Rgb) -> Rgb {
    matrix.map(|row| row.iter().zip(by).map(|(one, other)| one * other).sum())
}

fn seen(vision: &[Rgb; 3], color: Rgb) -> Rgb {
    times(vision, color).map(|channel| channel.clamp(0.0, 1.0))
}

fn contrast(one: Rgb, other: Rgb) -> f64 {
    let light = |[red, green, blue]: Rgb| 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
    (light(one) / light(other)).max(light(other) / light(one))
}

/// The distance in Oklab (Ottosson, 2020).
fn difference(one: Rgb, other: Rgb) -> f64 {
    const CONES: [Rgb; 3] = [
        [0.412_221_470_8, 0.536_332_536_3, 0.051_445_992_9],
        [0.211_903_498_2, 0.680_699_545_1, 0.107_396_956_6],
        [0.088_302_461_9, 0.281_718_837_6, 0.629_978_700_5],
    ];
    const LAB: [Rgb; 3] = [
        [0.210_454_255_3, 0.793_617_785_0, -0.004_072_046_8],
        [1.977_998_495_1, -2.428_592_205_0, 0.450_593_709_9],
        [0.025_904_037_1, 0.782_771_766_2, -0.808_675_766_0],
    ];
    let lab = |color| times(&LAB, times(&CONES, color).map(f64::cbrt));
    let squares = lab(one).iter().zip(lab(other)).map(|(one, other)| (one - other).powi(2)).sum::<f64>();
    squares.sqrt() * 100.0
}

/// The colors that appear together: of classes and of runs, and of percentiles.
const TOGETHER: [&[&str]; 2] = [
    &["ok", "lost", "late", "corrupted", "truncated", "misdirected", "unreachable", "plain"],
    &["p50", "p90", "p95", "p99", "p99-9", "plain"],
];

#[test]
fn colors_of_one_plot_can_be_told_apart_by_everybody() {
    for scheme in Scheme::both() {
        for colors in TOGETHER {
            for (nth, one) in colors.iter().enumerate() {
                for other in &colors[..nth] {
                    for (vision, lack) in &VISIONS {
                        let found =
                            difference(seen(lack, scheme.color(one)), seen(lack, scheme.color(other)));
                        assert!(found >= DIFFERENCE_MIN, "{one} and {other} in {vision}: {found:.1}");
                    }
                }
            }
        }
    }
    assert!(Ink::SERIES.iter().all(|ink| TOGETHER[0].contains(&ink.0)));
}

#[test]
fn colors_are_seen_on_their_background() {
    for scheme in Scheme::both() {
        let card = scheme.color("card");
        for name in TOGETHER.iter().copied().flatten() {
            let found = contrast(scheme.color(name), card);
            assert!(found >= CONTRAST_MIN, "{name}: {found:.2}");
        }
        let washes = ["bad-wash", "good-wash"];
        let texts =
            [("text", "card"), ("text", "page"), ("quiet", "card"), ("quiet", "page"), ("bad", "card")];
        for (text, ground) in texts.into_iter().chain(washes.map(|wash| ("text", wash))) {
            let found = contrast(scheme.color(text), scheme.color(ground));
            assert!(found >= TEXT_CONTRAST_MIN, "{text} on {ground}: {found:.2}");
        }
    }
}

/// The tests above would see a page of red against green.
#[test]
fn red_against_green_is_not_good_enough() {
    let scheme = Scheme::read("--red: #c62f3b; --green: #17784a; --white: #ffffff; --black: #000000;");
    let of = |vision: usize| {
        let seen = |name| seen(&VISIONS[vision].1, scheme.color(name));
        difference(seen("red"), seen("green"))
    };
    assert!(of(0) > 20.0, "{}", of(0));
    assert!(of(1).min(of(2)) < DIFFERENCE_MIN, "{} {}", of(1), of(2));
    let extreme = contrast(scheme.color("white"), scheme.color("black"));
    assert!((extreme - 21.0).abs() < 0.01, "{extreme}");
    assert!((difference(scheme.color("white"), scheme.color("black")) - 100.0).abs() < 0.1);
}
