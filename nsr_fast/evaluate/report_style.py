"""The style sheet of report.html: light and dark, colours checked for contrast on both."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --rule: #d9dee5; --page:
  #ffffff;
  --card: #f6f8fa; --s0: #6b7280; --s1: #c2410c; --s2: #1d4ed8; --s3: #047857; --s4: #7e22ce;
  --s5: #a16207; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #a3adba; --rule: #343c47;
  --page: #12161c; --card: #1a2028; --s0: #9ca3af; --s1: #fb923c; --s2: #7aa5ff; --s3: #34d399;
  --s4: #c792ff; --s5: #eab308; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 28px 24px 60px; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 14px; margin: 0 0 2px; font-weight: 600; }
h3 small { color: var(--soft); font-weight: 400; margin-left: 6px; }
p { margin: 4px 0 12px; max-width: 78ch; }
.soft { color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 0; padding: 0; list-style:
  none; }
.facts li { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding:
  8px 14px; }
.facts b { display: block; font-size: 18px; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 12.5px; }
.grid-of-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr));
  gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 12px 6px; }
figure.wide { max-width: 760px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--soft); }
.grid { stroke: var(--rule); fill: none; }
.axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.band { opacity: .17; stroke: none; }
.area { opacity: .55; stroke: none; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
.s3 { --c: var(--s3); } .s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
.line { stroke: var(--c); } .band, .area, .dot { fill: var(--c); } .key { background: var(--c); }
.line.s0 { stroke-dasharray: 6 3; }
.only .s0 { --c: var(--s2); } .only .line.s0 { stroke-dasharray: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 4px 0 6px; padding: 0;
  list-style: none; font-size: 12.5px; color: var(--soft); }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 5px;
  vertical-align: -1px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; margin:
  10px 0; }
caption { text-align: left; color: var(--soft); padding-bottom: 6px; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.up { color: var(--s3); } .down { color: var(--s1); }
details { margin-top: 10px; } summary { cursor: pointer; }
details td { white-space: normal; overflow-wrap: anywhere; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
"""
