// Measures pages of blaster at several widths: ci/browser opens this in a page of its own, with pages and widths in the
// address: layout.html#WIDTH,WIDTH:PAGE,PAGE. Each defect is an error on the console.
//
// Every piece of text is a box. No two boxes overlap, none leaves its card, its tile or the page, none lies on a drawing,
// and labels have the same size at every width.
"use strict";
const [widths, pages] = location.hash.slice(1).split(":").map((part) => part.split(","));
const sizes = new Map(); // of each kind of text, as first seen

function measure(frame, width, page) {
    const complain = (what) => console.error(`${page} at ${width}: ${what}`);
    const inner = frame.contentDocument;
    for (const details of inner.querySelectorAll("details")) details.open = true;
    if (inner.documentElement.scrollWidth > width) complain(`it is ${inner.documentElement.scrollWidth} wide`);
    const texts = boxes(inner);
    for (const { kind, element, said } of texts) {
        const size = inner.defaultView.getComputedStyle(element).fontSize;
        if (!sizes.has(kind)) sizes.set(kind, size);
        if (kind.startsWith("label") && sizes.get(kind) !== size) complain(`"${said}" has ${size}, not ${sizes.get(kind)}`);
    }
    for (const [nth, one] of texts.entries()) {
        if (one.rect.left < 0 || one.rect.right > width) complain(`"${one.said}" is beside the page`);
        if (one.home && !holds(one.home.getBoundingClientRect(), one.rect)) complain(`"${one.said}" leaves its card`);
        for (const other of texts.slice(nth + 1)) {
            if (overlap(one.rect, other.rect)) complain(`"${one.said}" lies on "${other.said}"`);
        }
        const drawing = one.element.closest(".plot")?.querySelector(".area");
        if (drawing && overlap(drawing.getBoundingClientRect(), one.rect)) complain(`"${one.said}" lies on its drawing`);
    }
    return texts.length;
}

// The visible pieces of text with their rectangles. What a table has beyond its edge is reached by scrolling.
function boxes(inner) {
    const found = [];
    const walker = inner.createTreeWalker(inner.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const said = walker.currentNode.textContent.trim();
        if (!said || element.closest("title")) continue;
        const range = inner.createRange();
        range.selectNodeContents(walker.currentNode);
        const scroller = element.closest(".scroll")?.getBoundingClientRect();
        for (const rect of range.getClientRects()) {
            if (rect.width === 0 || (scroller && rect.right > scroller.right + 1)) continue;
            const kind = element.closest(".x, .y") ? "label of an axis" : element.closest(".legend") ? "label of a line" : "text";
            found.push({ rect, said, element, kind, home: scroller ? null : element.closest(".card, .tile") });
        }
    }
    return found;
}

// Lines of one paragraph touch, and rounding is no overlap.
const SLACK = 1.5;

function overlap(one, other) {
    const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    return across > SLACK && down > SLACK;
}

function holds(outer, rect) {
    return rect.left >= outer.left && rect.right <= outer.right && rect.top >= outer.top && rect.bottom <= outer.bottom;
}

async function open(page, width) {
    const frame = document.createElement("iframe");
    Object.assign(frame.style, { width: `${width}px`, height: "800px", border: 0 });
    frame.src = page;
    const opened = new Promise((resolve) => (frame.onload = resolve));
    document.body.append(frame);
    await opened;
    return frame;
}

async function all() {
    let texts = 0;
    for (const page of pages) {
        for (const width of widths) {
            const frame = await open(page, width);
            texts += measure(frame, Number(width), page);
            frame.remove();
        }
    }
    document.title = `measured ${texts}`;
}
all();
