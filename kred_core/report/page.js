"use strict";
document.documentElement.classList.add("js");
for (const comparison of document.querySelectorAll(".comparison")) {
  const sky = comparison.querySelector(".window");
  const slider = comparison.querySelector(".slider");
  const [before, after] = comparison.querySelectorAll(".choice");
  const show = (percent) => {
    slider.value = percent;
    sky.style.setProperty("--cut", `${percent}%`);
    before.checked = percent >= 100;
    after.checked = percent <= 0;
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  before.addEventListener("change", () => show(100));
  after.addEventListener("change", () => show(0));
  show(before.checked ? 100 : 0);
}
