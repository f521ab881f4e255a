export const en = {
  lead: "Until then the terminal makes knowledge bases out of folders.",
};
