// The editor is a plain form that also works without this script. The script adds a live preview, uploads of
// pictures (by button, paste or drop), Ctrl+S to save, and a warning before the author leaves unsaved text.
(() => {
  "use strict";

  const form = document.getElementById("editor");
  const text = form.elements.body;
  const pane = form.querySelector("[data-pane]");
  const preview = form.querySelector("[data-preview-body]");
  const status = form.querySelector("[data-status]");
  const picker = form.querySelector("[data-file]");
  const hint = status.textContent;
  let timer;
  let latest = 0;
  let dirty = form.closest("main").querySelector(".banner-error") !== null;

  const send = (url, fields) => {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    const headers = { Accept: "application/json, text/html;q=0.5", "X-CSRFToken": form.elements.csrf_token.value };
    return fetch(url, { method: "POST", body, headers, credentials: "same-origin", redirect: "error" });
  };

  const say = (message, isError = false) => {
    status.textContent = message || hint;
    status.classList.toggle("field-error", isError);
  };

  // Preview

  const show = async () => {
    const number = ++latest;
    try {
      const response = await send(form.dataset.preview, { body: text.value });
      const html = await response.text();
      if (number !== latest) return; // a later request will show a newer text
      if (response.ok) preview.innerHTML = html; // sanitised by the server
      else say("The preview is out of date: sign in again in another tab.", true);
    } catch {
      say("The preview is out of date: the server cannot be reached.", true);
    }
  };

  text.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, 300);
  });

  // Pictures

  const insert = (words, start, end) => {
    text.setRangeText(words, start, end, "end");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const upload = async (file, number) => {
    const marker = `![Uploading picture ${number} …]()`;
    insert(`${marker}\n`, text.selectionStart, text.selectionEnd);
    let words = "";
    try {
      const response = await send(form.dataset.upload, { file });
      const type = response.headers.get("Content-Type") || "";
      const answer = type.startsWith("application/json") ? await response.json() : {};
      if (response.ok) words = answer.markdown;
      else if (answer.error) say(`${file.name}: ${answer.error}`, true);
      else if (response.status === 413) say(`${file.name} is too large.`, true);
      else say(`${file.name} was not uploaded: sign in again in another tab.`, true);
    } catch {
      say(`${file.name} was not uploaded: the server cannot be reached, or the file is too large.`, true);
    }
    const start = text.value.indexOf(marker);
    if (start < 0) return; // the author removed the marker
    const whole = words ? marker.length : marker.length + 1;
    text.setRangeText(words, start, start + whole, "preserve");
    if (words.startsWith("![]")) {
      say("Describe the picture between [ and ], for readers who cannot see it.");
      text.focus();
      text.setSelectionRange(start + 2, start + 2);
    }
    text.dispatchEvent(new Event("input", { bubbles: true }));
  };

  let uploads = 0;
  const uploadAll = async (files) => {
    say("");
    for (const file of files) await upload(file, ++uploads);
  };
  const pictures = (transfer) => [...transfer.files].filter((file) => file.type.startsWith("image/"));

  text.addEventListener("paste", (event) => {
    const files = pictures(event.clipboardData);
    if (files.length === 0) return;
    event.preventDefault();
    uploadAll(files);
  });
  text.addEventListener("drop", (event) => {
    const files = pictures(event.dataTransfer);
    if (files.length === 0) return;
    event.preventDefault();
    uploadAll(files);
  });
  form.querySelector("[data-picture]").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    uploadAll([...picker.files]);
    picker.value = "";
  });

  // Saving

  form.addEventListener("input", () => { dirty = true; });
  form.addEventListener("submit", (event) => {
    if (!event.submitter || !event.submitter.hasAttribute("formaction")) dirty = false;
  });
  window.addEventListener("beforeunload", (event) => {
    if (dirty) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "s") {
      event.preventDefault();
      form.requestSubmit(form.querySelector(".button-main"));
    }
  });

  for (const hidden of form.querySelectorAll("[data-tools], [data-pane]")) hidden.hidden = false;
  form.querySelector("[data-plain-preview]").hidden = true;
  form.classList.add("editor-live");
  show();
})();
