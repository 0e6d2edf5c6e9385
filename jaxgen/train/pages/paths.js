const d = DATA, at = i => document.getElementById(i);
const add = (s, text, value) => s.add(new Option(text, value));
d.sources.forEach((t, i) => add(at("source"), t, i));
d.names.forEach((name, k) => {
  const label = document.createElement("label"), s = document.createElement("select");
  label.textContent = name + " "; s.id = "pick" + k; add(s, "(as it is)", -1);
  d.labels[k].forEach((t, i) => add(s, t, i)); label.append(s); at("picks").append(label);
});
const label = document.createElement("label"), s = document.createElement("select");
label.textContent = "strength "; s.id = "strength"; d.strengths.forEach(t => add(s, t, t));
s.value = "1"; label.append(s); at("picks").append(label);
at("pick0").value = "1";
function show() {
  const row = +at("source").value, pick = d.names.map((_, k) => at("pick" + k).value);
  const lines = pick.every(v => v < 0) ? [] : d.texts[pick.join(",") + "@" + at("strength").value][row];
  at("path").replaceChildren(); let last = new Set(d.sources[row].split(" "));
  [d.sources[row], ...lines].forEach(t => {
    const li = document.createElement("li");
    t.split(" ").forEach(w => {
      const e = document.createElement(last.has(w) ? "span" : "mark"); e.textContent = w; li.append(e, " ");
    });
    at("path").append(li); last = new Set(t.split(" "));
  });
}
document.querySelectorAll("select").forEach(s => s.onchange = show); show();
