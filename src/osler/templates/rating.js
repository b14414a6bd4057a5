// What the rating sheet does: one item at a time, answers kept by the browser, a CSV file at the end. It calls no server.
"use strict";
(() => {
  const QUESTIONS = ["correct", "sound"];
  const ANSWERS = ["yes", "no", "cannot say"];
  const store = `osler-rating-${document.body.dataset.sheet}`;
  const form = document.querySelector("form");
  const items = [...document.querySelectorAll("article")];
  const codes = items.map((item) => item.dataset.code);
  const byId = (id) => document.getElementById(id);
  let at = 0;
  let kept = true;

  const field = (name, code) => form.elements[`${name}-${code}`];
  const isDone = (code) => QUESTIONS.every((name) => field(name, code).value);
  const answers = () => codes.map((code) => ["correct", "sound", "note"].map((name) => field(name, code).value));
  const say = (text) => { byId("status").textContent = text; };

  function keep() {
    try {
      localStorage.setItem(store, JSON.stringify(Object.fromEntries(answers().map((each, k) => [codes[k], each]))));
    } catch {
      if (kept) say("This browser keeps nothing: save the file before you close the page.");
      kept = false;
    }
  }

  function restore() {
    let found = null;
    try {
      found = JSON.parse(localStorage.getItem(store));
    } catch {
      say("This browser holds no readable answers: you start afresh.");
    }
    for (const code of codes) {
      const each = found?.[code];
      if (Array.isArray(each)) ["correct", "sound", "note"].forEach((name, k) => { field(name, code).value = each[k]; });
    }
  }

  function count() {
    const done = codes.filter(isDone).length;
    byId("progress").value = done;
    byId("count").textContent = `${done} of ${codes.length} done`;
    return done;
  }

  function show(next, focus = true) {
    at = Math.max(0, Math.min(items.length - 1, next));
    items.forEach((item, k) => { item.hidden = k !== at; });
    byId("previous").disabled = at === 0;
    byId("next").disabled = at === items.length - 1;
    if (focus) {
      items[at].querySelector("h2").focus({ preventScroll: true });
      items[at].scrollIntoView();
    }
  }

  function open() {
    const after = [...codes.keys()].map((k) => (at + 1 + k) % codes.length);
    const next = after.find((k) => !isDone(codes[k]));
    if (next === undefined) say("Everything is answered. Save the file and send it back.");
    else show(next);
  }

  function save() {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const rows = answers().map((each, k) => [codes[k], document.body.dataset.rater, ...each]);
    const text = [["code", "rater", "correct", "sound", "note"], ...rows].map((row) => row.map(quoted).join(",")).join("\r\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`\ufeff${text}\r\n`], { type: "text/csv;charset=utf-8" }));
    link.download = `ratings-${document.body.dataset.rater}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    const open = codes.length - count();
    say(open ? `Saved. ${open} of ${codes.length} items are still open.` : "Saved. Send the file back.");
  }

  function choose(name, answer) {
    const code = codes[at];
    [...field(name, code)].find((one) => one.value === answer).checked = true;
    form.dispatchEvent(new Event("input"));
    say(`Item ${at + 1}: ${name === "correct" ? "answer correct" : "reasoning sound"}: ${answer}`);
  }

  function press(event) {
    const typing = event.target.matches("textarea, input:not([type=radio])");
    if (typing || !byId("keys").checked || event.ctrlKey || event.metaKey || event.altKey) return;
    const number = "123456".indexOf(event.key);
    if (number >= 0) choose(QUESTIONS[Math.floor(number / 3)], ANSWERS[number % 3]);
    else if (event.key === "n") show(at + 1);
    else if (event.key === "p") show(at - 1);
    else if (event.key === "o") open();
    else return;
    event.preventDefault();
  }

  form.addEventListener("input", () => { keep(); count(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", press);
  byId("previous").addEventListener("click", () => show(at - 1));
  byId("next").addEventListener("click", () => show(at + 1));
  byId("open").addEventListener("click", open);
  byId("save").addEventListener("click", save);
  window.addEventListener("beforeunload", (event) => { if (!kept) event.preventDefault(); });
  restore();
  const first = codes.findIndex((code) => !isDone(code));
  show(first < 0 ? 0 : first, false);
  count();
  byId("tools").hidden = false;
})();
