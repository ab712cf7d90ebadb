"""The style sheet of the report: light and dark, narrow and wide screens, and paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --muted: #5d6879; --line: #dfe3e9; --accent: #0b62a8;
  --first: #0072b2; --second: #d55e00; --third: #00855f;
  --fourth: #a8447f; --fifth: #86650a; --sixth: #5b4fc4; --soft: #eaf2f9; --warn: #fff6e0; --warn-line:
  #e0a100; }
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1b212a; --ink: #e6eaf0; --muted: #9aa6b6; --line: #313a47; --accent: #7cc0f5;
  --first: #56b4e9; --second: #f0894a; --third: #3ecf9f;
  --fourth: #e39bc6; --fifth: #e0c04a; --sixth: #a79ff2; --soft: #1e2d3b; --warn: #2e2814; --warn-line:
  #b98a12; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; overflow-wrap: anywhere;
} h2 { font-size: 1.2rem; margin: 0 0 .7rem; }
h3 { font-size: .95rem; margin: 0 0 .35rem; }
p { margin: 0 0 .7rem; max-width: 75ch; }
.lead { font-size: 1.06rem; color: var(--muted); margin-bottom: 1.3rem; }
.note { color: var(--muted); font-size: .88rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 20px 22px;
  margin: 18px 0; }
.headlines { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(178px, 1fr)); margin:
18px 0; } .headline { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding:
14px 16px; } .headline.main { background: var(--soft); border-color: var(--accent); }
.headline .label { color: var(--muted); font-size: .84rem; }
.headline .value { font-size: 1.45rem; font-weight: 650; line-height: 1.3; font-variant-numeric:
tabular-nums; } .headline.main .value { color: var(--accent); }
.headline .value small { font-size: .95rem; font-weight: 500; white-space: nowrap; }
.headline .small { color: var(--muted); font-size: .8rem; line-height: 1.4; }
ol { margin: 0; padding-left: 1.4em; } ol li { margin: .3rem 0; max-width: 75ch; }
ul.caveats { margin: 0; padding-left: 1.2em; } ul.caveats li { margin: .25rem 0; }
section.warning { background: var(--warn); border-color: var(--warn-line); }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(var(--cell, 240px), 1fr));
  align-items: start; }
.grid.three { --cell: 270px; grid-template-columns: repeat(auto-fit, minmax(var(--cell), 1fr)); }
.grid.small { --cell: 150px; gap: 12px; } .grid.plots { --cell: 310px; }
.grid.charts { --cell: 205px; gap: 14px 10px; } .grid.groups { --cell: 460px; gap: 18px 26px; }
.group h3 { overflow-wrap: anywhere; } .triple { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
figure.plot.large { overflow-x: auto; } figure.plot.large svg { min-width: 620px; }
small.below { color: var(--muted); font-size: .82em; white-space: normal; }
td.number small.below { white-space: nowrap; }
.grid.pairs { --cell: 420px; } .grid.tight { --cell: 230px; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #000; }
figure.plot svg { display: block; width: 100%; height: auto; }
figure.plot svg text { font-family: inherit !important; }
figcaption { font-size: .84rem; color: var(--muted); margin-top: .35rem; overflow-wrap: anywhere;
line-height: 1.4; } figcaption b { color: var(--ink); font-weight: 600; }
.nb { white-space: nowrap; }
.rank { display: block; font-weight: 600; margin-bottom: .35rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.mark { display: inline-block; font-size: .75rem; font-weight: 650; padding: 0 .5em; border-radius: 99px;
  border: 1px solid currentColor; margin-right: .35em; line-height: 1.5; }
.mark.d1 { color: var(--first); } .mark.d2 { color: var(--second); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .86rem; color: var(--muted);
  margin: 0 0 .8rem; padding: 0; list-style: none; }
.legend i { display: inline-block; width: 1.5em; height: .3em; border-radius: 2px; margin-right: .45em;
  vertical-align: middle; }
.legend i.area { height: .8em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .34rem .7rem .34rem 0; border-bottom: 1px solid var(--line);
vertical-align: top; } th { color: var(--muted); font-weight: 600; font-size: .82rem; }
td.name { overflow-wrap: anywhere; min-width: 6em; }
th.number, td.number { text-align: right; } td.number { white-space: nowrap; } th { vertical-align: bottom; }
tbody tr { break-inside: avoid; }
tfoot td { font-weight: 600; border-bottom: 0; }
.bar { display: inline-block; width: 84px; height: .6em; margin-left: .7em; border-radius: 3px; background:
var(--line);
  overflow: hidden; vertical-align: baseline; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bar i { display: block; height: 100%; background: var(--first); }
.bar.low i { background: var(--second); }
.facts { display: grid; gap: 18px 28px; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); }
.facts td:first-child { color: var(--muted); padding-right: 1.2em; width: 45%; }
.facts td { overflow-wrap: anywhere; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem;
margin: 0;
  font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: .82rem; margin-top: 22px; }
@media (max-width: 560px) {
  main { padding: 18px 12px 32px; } section { padding: 15px 14px; border-radius: 10px; } h1 { font-size:
  1.5rem; } .headlines { grid-template-columns: 1fr 1fr; gap: 8px; } .headline { padding: 10px 12px; }
  .headline .value { font-size: 1.12rem; } .headline.main { grid-column: 1 / -1; }
  .headline.main .value { font-size: 1.45rem; }
  .grid, .grid.plots, .grid.pairs, .grid.tight, .grid.groups { grid-template-columns: 1fr; }
  .grid.charts { grid-template-columns: 1fr 1fr; } .grid.small {
  grid-template-columns: 1fr 1fr; } table { font-size: .84rem; } .bar { display: none; } th, td {
  padding-right: .5rem; }
}
@media print {
  :root { --page: #ffffff; --card: #ffffff; --ink: #000000; --muted: #444444; --line: #cccccc; --accent:
  #0b62a8;
    --first: #0072b2; --second: #d55e00; --third: #00855f;
  --fourth: #a8447f; --fifth: #86650a; --sixth: #5b4fc4; --soft: #ffffff; --warn: #ffffff; --warn-line:
    #999999; }
  @page { margin: 14mm; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 10px 0; margin: 8px 0; }
  .grid.charts { grid-template-columns: repeat(4, 1fr); } .grid.groups { grid-template-columns: 1fr 1fr; }
  table { font-size: .8rem; } th, td { padding: .22rem .5rem .22rem 0; }
  .group { break-inside: avoid; } figure.plot.large { overflow: visible; } figure.plot.large svg { min-width: 0; }
  .grid.plots, .grid.pairs { grid-template-columns: 1fr 1fr; } .grid.tight { grid-template-columns: 1fr 1fr
  1fr; } .grid.three { grid-template-columns: 1fr 1fr 1fr; }
  .grid.small { grid-template-columns: repeat(5, 1fr); } .scroll { overflow: visible; }
  h2 { break-after: avoid; } thead { display: table-header-group; }
}
"""
