"use strict";
// The search over all test prompts. The data stand in the page, as JSON; nothing is fetched.
(() => {
  const data = JSON.parse(document.getElementById("items").textContent);
  const form = document.getElementById("filters"), list = document.getElementById("found");
  const count = document.getElementById("count"), more = document.getElementById("more");
  const MARKS = ["\u2717", "\u2713", "\u2205"], KINDS = ["wrong", "ok", "void"], STEP = 12;
  let shown = STEP;

  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const fill = (name, values) => values.forEach((value) => {
    const option = make("option", "", value);
    option.value = value;
    form.elements[name].append(option);
  });
  fill("skill", [...new Set(data.items.map((item) => item.skill))]);
  fill("kind", [...new Set(data.items.flatMap((item) => item.questions.map((q) => q.kind)))].sort());
  fill("model", data.models);
  fill("than", data.models);

  // A prompt is shown if all filters agree. Right, wrong and better are said of the chosen model, or of any, and of
  // questions of the chosen kind.
  const agrees = (item) => {
    const value = (name) => form.elements[name].value;
    if (value("skill") && item.skill !== value("skill")) return false;
    const asked = item.questions.filter((q) => !value("kind") || q.kind === value("kind"));
    if (!asked.length) return false;
    const words = value("words").trim().toLowerCase();
    if (words && !item.prompt.toLowerCase().includes(words)) return false;
    const model = data.models.indexOf(value("model")), than = data.models.indexOf(value("than"));
    const right = (n) => asked.filter((q) => q.said[n][1] === 1).length;
    const models = model >= 0 ? [model] : data.models.map((_, n) => n);
    if (than >= 0 && !models.some((n) => right(n) > right(than))) return false;
    if (!value("verdict")) return true;
    const whole = (n) => right(n) === asked.length;
    return value("verdict") === "right" ? models.every(whole) : models.some((n) => !whole(n));
  };

  const picture = (item, n) => {
    const figure = make("figure"), image = make("div", "thumb");
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", `${data.models[n]}: ${item.prompt}`);
    image.style.backgroundImage = `url(${item.strip})`;
    image.style.backgroundSize = `${100 * data.models.length}% 100%`;
    image.style.backgroundPosition = data.models.length > 1 ? `${(100 * n) / (data.models.length - 1)}% 0` : "0 0";
    const caption = make("figcaption", "", `${data.models[n]} `);
    caption.append(make("span", item.scores[n] === 1 ? "ok" : item.scores[n] === 0 ? "wrong" : "faint", `${Math.round(100 * item.scores[n])}%`));
    figure.append(image, caption);
    return figure;
  };
  const table = (item) => {
    const box = make("div", "scroll"), whole = make("table"), head = make("tr");
    ["question", "expected", ...data.models].forEach((name) => head.append(make("th", "", name)));
    whole.append(head);
    item.questions.forEach((question) => {
      const row = make("tr");
      row.append(make("td", "", question.text), make("td", "", question.expected));
      question.said.forEach(([answer, kind]) =>
        row.append(make("td", KINDS[kind], `${MARKS[kind]}\u00a0${answer ?? "no answer"}`)));
      whole.append(row);
    });
    box.append(whole);
    return box;
  };
  const card = (item) => {
    const whole = make("article", "card"), pictures = make("div", "thumbs"), details = make("details");
    const text = make("p");
    text.append(make("span", "faint", item.skill), make("br"), item.prompt);
    data.models.forEach((_, n) => pictures.append(picture(item, n)));
    details.append(make("summary", "", `${item.questions.length} questions`));
    details.addEventListener("toggle", () => { if (details.open && !details.querySelector("table")) details.append(table(item)); });
    whole.append(text, pictures, details);
    return whole;
  };

  const show = () => {
    const found = data.items.filter(agrees);
    list.replaceChildren(...found.slice(0, shown).map(card));
    count.textContent = `${found.length} of ${data.items.length} prompts`;
    more.hidden = found.length <= shown;
  };
  const start = () => { shown = STEP; show(); };
  form.addEventListener("input", start);
  form.addEventListener("reset", () => setTimeout(start));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { shown += STEP; show(); });
  form.hidden = false;
  show();
})();
