"use strict";
// The runs' own reports, side by side: a part that is chosen is shown in all of them.
(() => {
  const frames = [...document.querySelectorAll("#reports iframe")], parts = document.getElementById("parts");
  const links = new Map();
  const show = (part) => frames.forEach(({contentDocument, contentWindow}) => {
    const found = contentDocument.getElementById(part);
    if (found) contentWindow.scrollTo(0, found.getBoundingClientRect().top + contentWindow.scrollY);
  });
  const offer = (frame) => frame.contentDocument.querySelectorAll("nav a").forEach((link) => {
    const part = link.hash.slice(1);
    if (links.has(part)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = link.textContent;
    button.addEventListener("click", () => show(part));
    links.set(part, button);
    parts.append(button);
  });
  frames.forEach((frame) => {
    frame.addEventListener("load", () => offer(frame));
    if (frame.contentDocument?.readyState === "complete") offer(frame);
  });
})();
