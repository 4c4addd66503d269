"""The look of the result's page: one palette for light, one for dark, by the reader's theme."""

STYLE = """
:root{--ground:#fbfaf7;--ink:#1d2428;--soft:#5d6a70;--rule:#dcdad2;--panel:#fff;
--c0:#0b6e8f;--c1:#c2571a;--c2:#4b7f2a;--c3:#8a3f8f;--bad:#b3261e;--good:#2f6d2f}
@media (prefers-color-scheme:dark){:root{--ground:#14181b;--ink:#e6e9ea;--soft:#9aa7ad;--rule:#2d353a;
--panel:#1b2125;
--c0:#58bfe0;--c1:#f09a5e;--c2:#9ccb74;--c3:#d68edb;--bad:#ff8a80;--good:#8fd18f}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:24px 20px 60px;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,sans-serif;color-scheme:light dark}
h1{font-size:24px;margin:0 0 4px}
h2{font-size:18px;margin:36px 0 8px;border-top:1px solid var(--rule);padding-top:20px}
p{margin:4px 0;color:var(--soft)}p b{color:var(--ink)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:14px 0}
.tile{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:10px 14px;
min-width:150px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:10px 0;width:100%}
th,td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
td small{color:var(--soft);display:block;font-size:12px}
.bad{color:var(--bad)}.good{color:var(--good)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px;margin:14px 0}
figure{margin:0;background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:8px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:12px system-ui,sans-serif}
svg .title{fill:var(--ink);font-weight:600;font-size:13px}.grid{stroke:var(--rule);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.dots{opacity:.65}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}
.line.c0{fill:none;stroke:var(--c0)}.line.c1{fill:none;stroke:var(--c1)}
.line.c2{fill:none;stroke:var(--c2)}.line.c3{fill:none;stroke:var(--c3)}
"""
