"""The page's looks: light, dark and on paper, wide and narrow."""

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #ffffff;
  --panel: #f6f7f9;
  --ink: #1b1f24;
  --quiet: #5b6470;
  --faint: #c9ced6;
  --tint: 0, 114, 178;
  --warn: #9a5b00;
  --warn-paper: #fff6e5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b;
    --panel: #1d2127;
    --ink: #e6e8eb;
    --quiet: #9aa4b1;
    --faint: #454d58;
    --tint: 64, 160, 220;
    --warn: #f0b95a;
    --warn-paper: #2a2315;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0;
  background: var(--paper);
  color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
header, main { max-width: 58rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 0.75rem; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 {
  font-size: 1.3rem; line-height: 1.3; margin: 3.5rem 0 0.75rem; padding-top: 1rem;
  border-top: 1px solid var(--faint); overflow-wrap: anywhere;
}
h3 { font-size: 1.05rem; margin: 2rem 0 0.5rem; }
h4 { font-size: 0.95rem; margin: 1.5rem 0 0; }
h4 + figure { margin-top: 0.4rem; }
p, dd { max-width: 44rem; }
p { margin: 0.5rem 0 1rem; }
a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: 0.2em; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; padding: 0; margin: 1rem 0 0; }
nav li { overflow-wrap: anywhere; }
.flag {
  display: inline-block; margin: 0; padding: 0.1rem 0.6rem; border-radius: 1rem;
  background: var(--warn-paper); color: var(--warn); font-size: 0.85rem; font-weight: 600;
}
.note {
  background: var(--warn-paper); border-left: 3px solid var(--warn); padding: 0.6rem 0.9rem; border-radius: 0 4px 4px 0;
}
.remark { color: var(--quiet); font-size: 0.9rem; margin: 0.25rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.7rem; text-align: left; vertical-align: baseline; }
.dense th, .dense td { padding: 0.2rem 0.45rem; }
th { font-weight: 600; }
thead th { vertical-align: bottom; white-space: nowrap; }
thead th[colspan] { text-align: center; }
thead tr:last-child th { border-bottom: 2px solid var(--ink); color: var(--quiet); }
thead tr:first-child th { color: inherit; }
tbody th { font-weight: 400; white-space: nowrap; }
tbody td { border-bottom: 1px solid var(--panel); }
tbody th { border-bottom: 1px solid var(--panel); }
tbody th.kind { font-weight: 600; padding-top: 0.9rem; border-bottom: 1px solid var(--faint); }
tbody th.class { color: var(--quiet); padding-left: 1.8rem; }
tfoot th, tfoot td { font-weight: 600; }
tfoot tr:first-child th, tfoot tr:first-child td { border-top: 2px solid var(--ink); }
tr > th:first-child { position: sticky; left: 0; background: var(--paper); }
.number { text-align: right; white-space: nowrap; }
td.number { background: rgba(var(--tint), calc(var(--shade, 0) * 0.28)); }
td small { display: block; color: var(--quiet); font-size: 0.72rem; font-weight: 400; line-height: 1.1; }
th.published { font-weight: 400; font-style: italic; }
.dot { display: inline-block; width: 0.65em; height: 0.65em; border-radius: 50%; margin-right: 0.45em; }
.sources { color: var(--quiet); font-size: 0.85rem; padding-left: 1.6rem; margin: 0.25rem 0 1.5rem; }
.sources li::marker { content: "[" counter(list-item) "] "; }
figure { margin: 1.75rem 0; }
figure svg { display: block; width: 100%; min-width: 36rem; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--quiet); font-size: 0.88rem; max-width: 44rem; margin-top: 0.4rem; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; font-weight: 600; padding: 0.25rem 0; }
dl { margin: 0; }
dt { font-weight: 600; margin-top: 1rem; }
dd { margin: 0.1rem 0 0; }
code, pre { font: 0.82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
.command span { white-space: nowrap; }
pre {
  background: var(--panel); border-radius: 6px; padding: 0.8rem 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
main { padding-bottom: 5rem; }
@media (max-width: 40rem) {
  /* The names stay in view while a table scrolls: long ones must leave room for the numbers. */
  tbody th, tfoot th { white-space: normal; overflow-wrap: anywhere; min-width: 7.5rem; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --panel: #f2f2f2; --ink: #000000; --quiet: #444444; --faint: #bbbbbb; --warn-paper: #ffffff;
    --tint: 0, 114, 178; --warn: #7a4800;
  }
  body { font-size: 10pt; }
  header, main { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  figure, tr, dt { break-inside: avoid; }
  h2, h3, dt, summary { break-after: avoid; }
  figure svg { min-width: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
  td.number { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
