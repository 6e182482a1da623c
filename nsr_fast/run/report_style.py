"""The style sheet of report.html; colours checked for contrast in light and in dark."""

LIGHT = {"ink": "#1c2430", "soft": "#5b6675", "rule": "#d9dee5", "page": "#ffffff"}
LIGHT |= {"card": "#f6f8fa", "grey": "#6b7280", "orange": "#c2410c", "blue": "#1d4ed8"}
LIGHT |= {"green": "#047857", "purple": "#7e22ce", "amber": "#a16207"}
DARK = {"ink": "#e6eaf0", "soft": "#a3adba", "rule": "#343c47", "page": "#12161c"}
DARK |= {"card": "#1a2028", "grey": "#9ca3af", "orange": "#fb923c", "blue": "#7aa5ff"}
DARK |= {"green": "#34d399", "purple": "#c792ff", "amber": "#eab308"}


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


CSS = (
    f"""
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 28px 24px 60px; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 14px; margin: 0 0 2px; font-weight: 600; }
h3 small { color: var(--soft); font-weight: 400; margin-left: 6px; }
p { margin: 4px 0 12px; max-width: 78ch; }
.soft { color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: 8px; margin: 16px 0 0; padding: 0; list-style:
  none; }
.facts li { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding:
  7px 11px; }
.facts b { display: block; font-size: 15px; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: 12.5px; }
.grid-of-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr));
  gap: 14px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
  padding: 12px 12px 6px; }
.pair { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
.pair figure { max-width: 760px; }
svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; margin:
  10px 0; }
caption { text-align: left; white-space: nowrap; color: var(--soft); padding-bottom: 6px; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.up { color: var(--green); } .down { color: var(--orange); }
details { margin-top: 14px; } summary { cursor: pointer; }
details th { text-align: left; } details td { white-space: normal; overflow-wrap: anywhere; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace; }
"""
)
