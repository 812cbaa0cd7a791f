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
  show(50);

  // RA and Dec under the pointer: the picture is a TAN projection
  const place = Object.fromEntries(Object.entries(sky.dataset).map(([name, value]) => [name, Number(value)]));
  const position = comparison.querySelector(".position");
  const radian = Math.PI / 180;
  const sexagesimal = (value, separators, digits) => {
    const unit = 10 ** digits;
    const total = Math.round(Math.abs(value) * 3600 * unit);
    const seconds = ((total % (60 * unit)) / unit).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    const minutes = String(Math.floor(total / (60 * unit)) % 60).padStart(2, "0");
    return `${Math.floor(total / (3600 * unit))}${separators[0]}${minutes}${separators[1]}${seconds}${separators[2]}`;
  };
  sky.addEventListener("pointermove", (event) => {
    const box = sky.getBoundingClientRect();
    const east = (place.left - (event.clientX - box.left) / box.width) * place.width * (radian / 3600);
    const north = (place.top - (event.clientY - box.top) / box.height) * place.height * (radian / 3600);
    const [sin, cos] = [Math.sin(place.dec * radian), Math.cos(place.dec * radian)];
    const ra = (place.ra + Math.atan2(east, cos - north * sin) / radian + 360) % 360;
    const dec = Math.atan2(sin + north * cos, Math.hypot(east, cos - north * sin)) / radian;
    const hours = sexagesimal((Math.round((ra / 15) * 36000) % 864000) / 36000, "ʰᵐˢ", 1);
    position.value = `RA ${hours}  Dec ${dec < 0 ? "−" : "+"}${sexagesimal(dec, "°′″", 0)}`;
  });
}
